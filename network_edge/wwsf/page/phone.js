// The phone page: one line (SIP over WebSocket), one call at a time.

import JsSIP from 'jssip';
import { fetchSession, forgetIceServers, iceServers } from './session.js';
import { watch } from './statistics.js';
import { buildPad, elements, notice, showCall, showKeypad, showLine, showMuted, showSession } from './view.js';

const RELAY_GRACE_MS = 150; // after the first relay candidate others have this long to turn up
const ENDED_SHOWN_MS = 4000;

let ua = null;
let call = null;
let closing = null;

// Steps of the call on the browser's own time line (performance.getEntriesByType('mark')).
function marker() {
  const seen = new Set();
  return (step) => {
    if (!seen.has(step)) {
      seen.add(step);
      performance.mark(`call:${step}`);
    }
  };
}

async function start() {
  buildPad(elements.pad, (key) => { elements.number.value += key; elements.number.focus(); });
  buildPad(elements.tones, (key) => call?.session.sendDTMF(key, { transportType: 'RFC2833' }));
  wire();
  try {
    const session = await fetchSession();
    if (!session) {
      showSession('out', null);
      showLine('failed', 'Not logged in');
      notice('You are not logged in. This device has no working SIM log-in for this page.');
      return;
    }
    performance.mark('page:session');
    showSession('in', session.display);
    connect(session);
    await iceServers();
  } catch (error) {
    showLine('failed', 'No service');
    notice(`The portal cannot be reached: ${error.message} Reload the page to try again.`);
  }
}

function connect({ sip }) {
  showLine('connecting', 'Connecting…');
  ua = new JsSIP.UA({
    sockets: [new JsSIP.WebSocketInterface(sip.websocket)],
    uri: sip.uri,
    display_name: sip.display_name || null,
    register: true,
    register_expires: 600,
    session_timers: false,
    connection_recovery_min_interval: 1,
    connection_recovery_max_interval: 15,
  });
  ua.on('connected', () => performance.mark('page:connected'));
  ua.on('registered', () => {
    performance.mark('page:registered');
    showLine('ready', 'Ready');
    notice(null);
  });
  ua.on('registrationFailed', ({ response, cause }) => {
    showLine('failed', 'No service');
    notice(explain(response, cause));
  });
  ua.on('unregistered', () => showLine('failed', 'No service'));
  ua.on('disconnected', () => {
    forgetIceServers();
    showLine('connecting', 'Connection lost, trying again…');
  });
  ua.on('newRTCSession', ({ session, originator }) => {
    if (originator === 'remote') incoming(session);
  });
  ua.start();
}

const media = () => {
  const on = elements.processing.checked;
  return { audio: { echoCancellation: on, noiseSuppression: on, autoGainControl: on }, video: false };
};

async function dial(target) {
  const text = target.replace(/[\s().-]/g, '');
  const address = /^\+?[0-9*#]+$/.test(text) ? text : target.trim();
  notice(null);
  const mark = marker();
  mark('dial');
  let servers;
  try {
    servers = await iceServers();
  } catch (error) {
    notice(error.message);
    return;
  }
  let session;
  try {
    session = ua.call(address, { mediaConstraints: media(), pcConfig: { iceServers: servers } });
  } catch {
    notice(`“${target}” is not a number or an address that can be called.`);
    return;
  }
  attach(session, target, mark);
  showCall('dialling', 'Calling…', target);
}

async function incoming(session) {
  if (call && !call.session.isEnded()) {
    session.terminate({ status_code: 486 });
    return;
  }
  const identity = session.remote_identity;
  const peer = identity.display_name || identity.uri.user || identity.uri.toString();
  attach(session, peer, marker());
  call.mark('ring');
  showCall('ringing-in', 'Incoming call', peer);
}

function attach(session, peer, mark) {
  clearTimeout(closing);
  call = { session, peer, mark, stopStatistics: null };
  showMuted(false);
  session.on('peerconnection', ({ peerconnection }) => observe(peerconnection));
  if (session.connection) observe(session.connection); // of an outgoing call it exists already
  session.on('sending', () => mark('invite'));
  session.on('icecandidate', hurry());
  session.on('progress', ({ originator, response }) => {
    if (originator !== 'remote') return;
    mark(`${response.status_code}`);
    if (response.status_code === 180) showCall('ringing-out', 'Ringing…');
    else if (response.body) showCall('early', 'Connecting…');
  });
  session.on('accepted', ({ originator }) => { if (originator === 'remote') mark('200'); });
  session.on('confirmed', () => { mark('confirmed'); showCall('talking', 'Connected'); });
  session.on('failed', ({ message, cause, originator }) => ended(explainCall(message, cause, originator)));
  session.on('ended', ({ originator, cause, message }) =>
    ended(originator === 'local' ? 'Call ended' : explainEnd(message, cause)));
  session.on('getusermediafailed', () => notice('The microphone cannot be used. Allow it for this page and call again.'));
}

function observe(connection) {
  if (call.connection === connection) return;
  const { mark } = call;
  call.connection = connection;
  connection.addEventListener('iceconnectionstatechange', () => {
    if (['connected', 'completed'].includes(connection.iceConnectionState)) mark('ice');
  });
  connection.addEventListener('connectionstatechange', () => {
    if (connection.connectionState === 'connected') mark('dtls');
    if (connection.connectionState === 'failed' && !call.session.isEnded()) {
      notice('The media connection was lost.');
      call.session.terminate();
    }
  });
  connection.addEventListener('track', ({ track, streams }) => {
    elements.remote.srcObject = streams[0] ?? new MediaStream([track]);
  });
  call.stopStatistics = watch(connection, mark);
}

// Gathering ends when every network has timed out; a relay candidate is enough to begin with.
function hurry() {
  let waiting = null;
  return ({ candidate, ready }) => {
    if (candidate.type === 'relay' && waiting === null) waiting = setTimeout(ready, RELAY_GRACE_MS);
  };
}

async function answer() {
  let servers;
  try {
    servers = await iceServers();
  } catch (error) {
    notice(error.message);
    call.session.terminate({ status_code: 480 });
    return;
  }
  call.mark('answer');
  showCall('connecting', 'Connecting…');
  call.session.answer({ mediaConstraints: media(), pcConfig: { iceServers: servers } });
}

function ended(text) {
  call?.mark('ended');
  call?.stopStatistics?.();
  elements.remote.srcObject = null;
  showCall('ended', text);
  closing = setTimeout(close, ENDED_SHOWN_MS);
}

function close() {
  clearTimeout(closing);
  if (call?.session.isEnded() ?? true) {
    call = null;
    showCall('idle');
  }
}

function wire() {
  elements.dial.addEventListener('submit', (event) => { event.preventDefault(); dial(elements.number.value); });
  elements.erase.addEventListener('click', () => { elements.number.value = elements.number.value.slice(0, -1); });
  elements.answer.addEventListener('click', answer);
  elements.hangup.addEventListener('click', () => {
    if (!call || call.session.isEnded()) close();
    else call.session.terminate(call.session.direction === 'incoming' && !call.session.isEstablished() ? { status_code: 603 } : {});
  });
  elements.mute.addEventListener('click', () => {
    const on = !call.session.isMuted().audio;
    if (on) call.session.mute({ audio: true });
    else call.session.unmute({ audio: true });
    showMuted(on);
  });
  elements.keypad.addEventListener('click', () => showKeypad(elements.tones.hidden));
  elements.processing.checked = localStorage.getItem('processing') !== 'off';
  elements.processing.addEventListener('change', () =>
    localStorage.setItem('processing', elements.processing.checked ? 'on' : 'off'));
  addEventListener('pagehide', () => { if (call && !call.session.isEnded()) call.session.terminate(); ua?.stop(); });
}

const REASONS = {
  403: 'The network does not allow this.', 404: 'This number does not exist.', 408: 'Nobody answered.',
  410: 'This number is no longer in use.', 480: 'The other side cannot be reached now.', 484: 'The number is incomplete.',
  486: 'The other side is busy.', 487: 'Call cancelled', 488: 'The two sides have no common way to talk.',
  500: 'The network has a fault.', 503: 'The network is not available now.', 504: 'The network did not answer.',
  600: 'The other side is busy.', 603: 'The call was declined.', 604: 'This number does not exist.',
};

// The network's own words (Warning, else Reason) say more than a code; the code's meaning comes first.
function words(message) {
  const warning = message?.getHeader?.('Warning')?.match(/"((?:[^"\\]|\\.)*)"/)?.[1];
  const reason = message?.getHeader?.('Reason')?.match(/text="((?:[^"\\]|\\.)*)"/)?.[1];
  const text = warning ?? reason ?? '';
  return text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}` : null;
}

function explain(message, cause) {
  const meaning = REASONS[message?.status_code] ?? (message ? `The network answered ${message.status_code}.` : `${cause}.`);
  return [meaning, words(message)].filter(Boolean).join(' ');
}

function explainCall(message, cause, originator) {
  if (originator === 'local' && cause === JsSIP.C.causes.CANCELED) return 'Call cancelled';
  if (originator === 'local' && cause === JsSIP.C.causes.REJECTED) return 'Declined';
  if (originator === 'remote' && cause === JsSIP.C.causes.CANCELED) return 'Missed call';
  return explain(message, cause);
}

function explainEnd(message, cause) {
  return cause === JsSIP.C.causes.BYE ? ['The other side hung up', words(message)].filter(Boolean).join('. ') : `${cause}`;
}

start();
