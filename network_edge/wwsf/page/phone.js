// The phone page: one line (SIP over WebSocket), a call and a second one behind it, messages.

import JsSIP from 'jssip';
import { caller } from './caller.js';
import { credentials, keepFresh, logIn, logOut, refusedPassword } from './login.js';
import { fetchSession, forgetIceServers, iceServers } from './session.js';
import { watch } from './statistics.js';
import { buildPad, elements, notice, showCall, showKeypad, showLine, showMessage, showMuted, showSecond, showSession } from './view.js';

const RELAY_GRACE_MS = 150; // after the first relay candidate others have this long to turn up
const ENDED_SHOWN_MS = 4000;
const LOG_OUT_GRACE_MS = 2000; // how long the line may take to leave the network before the token ends
const RETRY_MS = [4000, 60000]; // after a refused registration: at first, and at most

let ua = null;
let call = null; // the one in front
let other = null; // a second one: it waits, or is held
let asked = null; // a transfer that the user has not decided on
let replacing = false; // the next call takes over the current one
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
    let session = await fetchSession();
    while (session.offered) {
      showSession('out', null);
      showLine('failed', 'Not logged in');
      if (!session.offered.password && !session.offered.providers.length) {
        notice('You are not logged in. This device has no working SIM log-in for this page.');
        return;
      }
      notice(null);
      await logIn(session.offered);
      session = await fetchSession();
    }
    performance.mark('page:session');
    showSession('in', session.display, session.sip.registration.method !== 'network');
    await connect(session);
    await iceServers();
  } catch (error) {
    showLine('failed', 'No service');
    notice(`The portal cannot be reached: ${error.message} Reload the page to try again.`);
  }
}

async function connect({ sip }, refused = false) {
  const asksUser = sip.registration.method === 'digest';
  if (asksUser) showLine('failed', 'Not logged in');
  const access = await credentials(sip.registration, refused);
  showLine('connecting', 'Connecting…');
  ua = new JsSIP.UA({
    ...access,
    sockets: [new JsSIP.WebSocketInterface(sip.websocket)],
    uri: sip.uri,
    display_name: sip.display_name || null,
    register: true,
    register_expires: 600,
    session_timers: false,
    connection_recovery_min_interval: 1,
    connection_recovery_max_interval: 15,
  });
  const fresh = keepFresh(ua, sip.registration, () => location.reload());
  let renewed = false; // a refused token is replaced once: the network's clock may be ahead, or its keys new
  let lost = false;
  let pause = RETRY_MS[0];
  let again = null;
  ua.on('connected', () => {
    performance.mark('page:connected');
    if (lost) stillLoggedIn();
  });
  ua.on('registered', () => {
    performance.mark('page:registered');
    renewed = false;
    clearTimeout(again);
    pause = RETRY_MS[0];
    showLine('ready', 'Ready');
    notice(null);
  });
  ua.on('registrationFailed', async ({ response, cause }) => {
    if (asksUser && refusedPassword(response, cause)) {
      ua.removeAllListeners();
      ua.stop();
      await connect({ sip }, true);
      return;
    }
    if (response?.status_code === 401 && !renewed && await fresh.now()) {
      renewed = true;
      ua.register();
      return;
    }
    showLine('failed', 'No service');
    notice(`${explain(response, cause)} The line is tried again by itself.`);
    clearTimeout(again);
    again = setTimeout(() => { if (ua.isConnected()) ua.register(); }, Math.max(pause, 1000 * (parseInt(response?.getHeader('Retry-After'), 10) || 0)));
    pause = Math.min(2 * pause, RETRY_MS[1]);
  });
  ua.on('unregistered', () => showLine('failed', 'No service'));
  ua.on('disconnected', () => {
    lost = true;
    clearTimeout(again);
    forgetIceServers();
    showLine('connecting', 'Connection lost, trying again…');
  });
  ua.on('newRTCSession', ({ session, originator, request }) => {
    if (originator === 'remote') incoming(session, request);
  });
  ua.on('newMessage', ({ originator, request }) => {
    if (originator !== 'remote') return;
    const { who, address } = caller(request);
    showMessage('received', who, request.body);
    if (!elements.to.value) elements.to.value = address;
  });
  ua.start();
}

// A portal that was started anew knows no log-in of before: better now than at the next call.
async function stillLoggedIn() {
  const { offered } = await fetchSession().catch(() => ({}));
  if (offered && (call?.session.isEnded() ?? true)) location.reload();
}

// The network has forgotten this line (TS 24.229 clauses 5.1.2A.1.6 and 5.1.1.2.1): it was started anew, or lost it.
function restore(message) {
  const forgotten = message?.status_code === 403
    || (message?.status_code === 504 && /initial-registration/.test(message.body ?? ''));
  if (!forgotten || !ua.isConnected()) return;
  ua.registrator().onTransportClosed(); // else JsSIP would not say when it is registered
  showLine('connecting', 'Registering again…');
  ua.register();
}

const media = () => {
  const on = elements.processing.checked;
  return { audio: { echoCancellation: on, noiseSuppression: on, autoGainControl: on }, video: false };
};

async function dial(target) {
  const text = target.replace(/[\s().-]/g, '');
  const address = /^\+?[0-9*#]+$/.test(text) ? text : target.trim();
  notice(null);
  if (other && call && !call.session.isEnded()) {
    notice('There are two calls already.');
    return;
  }
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
  park();
  attach(session, target, mark);
  showCall('dialling', 'Calling…', target);
  second();
}

function incoming(session, request) {
  const peer = caller(request).who;
  if (replacing) { // it takes over the call that is here: nobody needs to ring
    replacing = false;
    park();
    attach(session, peer, marker());
    answer();
    return;
  }
  if (call && !call.session.isEnded()) {
    if (other || asked) session.terminate({ status_code: 486 });
    else {
      other = attachTo({ session, peer, mark: marker() });
      second();
    }
    return;
  }
  attach(session, peer, marker());
  call.mark('ring');
  showCall('ringing-in', 'Incoming call', peer);
}

function attach(session, peer, mark) {
  clearTimeout(closing);
  call = attachTo({ session, peer, mark });
  showMuted(false);
}

// Everything that is known of a call hangs on its own object: there may be two.
function attachTo(mine) {
  const { session, mark } = mine;
  Object.assign(mine, { stopStatistics: null, since: null, stream: null });
  const show = (...what) => { if (mine === call) showCall(...what); };
  session.on('peerconnection', ({ peerconnection }) => observe(mine, peerconnection));
  if (session.connection) observe(mine, session.connection); // of an outgoing call it exists already
  session.on('sending', () => mark('invite'));
  session.on('icecandidate', hurry());
  session.on('progress', ({ originator, response }) => {
    if (originator !== 'remote') return;
    mark(`${response.status_code}`);
    const waits = /call-waiting/i.test(response.getHeader('Alert-Info') ?? '');
    if (response.status_code === 180) show('ringing-out', waits ? 'Ringing, the other side is in a call…' : 'Ringing…');
    else if (response.body) show('early', 'Connecting…');
  });
  session.on('accepted', ({ originator }) => { if (originator === 'remote') mark('200'); });
  session.on('confirmed', () => { mark('confirmed'); mine.since = performance.now(); show('talking', 'Connected', null, mine.since); });
  session.on('failed', ({ message, cause, originator }) => {
    ended(mine, explainCall(message, cause, originator));
    if (originator === 'remote') restore(message);
  });
  session.on('ended', ({ originator, cause, message }) =>
    ended(mine, originator === 'local' ? 'Call ended' : explainEnd(message, cause)));
  session.on('getusermediafailed', () => notice('The microphone cannot be used. Allow it for this page and call again.'));
  session.on('refer', (request) => ask(request));
  session.on('replaces', ({ accept }) => { replacing = true; accept(); });
  return mine;
}

function observe(mine, connection) {
  if (mine.connection === connection) return;
  const { mark } = mine;
  mine.connection = connection;
  connection.addEventListener('iceconnectionstatechange', () => {
    if (['connected', 'completed'].includes(connection.iceConnectionState)) mark('ice');
  });
  connection.addEventListener('connectionstatechange', () => {
    if (connection.connectionState === 'connected') mark('dtls');
    if (connection.connectionState === 'failed' && !mine.session.isEnded()) {
      notice('The media connection was lost.');
      mine.session.terminate();
    }
  });
  connection.addEventListener('track', ({ track, streams }) => {
    mine.stream = streams[0] ?? new MediaStream([track]);
    if (mine === call) elements.remote.srcObject = mine.stream;
  });
  mine.stopStatistics = watch(connection, mark);
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

function ended(mine, text) {
  mine.mark('ended');
  mine.stopStatistics?.();
  if (mine === other) {
    other = null;
    second();
    return;
  }
  if (mine !== call) return;
  asked = null;
  if (other) { // the one that is left comes to the front
    [call, other] = [other, null];
    front();
    if (call.session.isEstablished()) hold(call, false);
    return;
  }
  elements.remote.srcObject = null;
  second();
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

// ---- two calls ----

// Show the current call as what it is, and the other one below.
function front() {
  const { session, peer, since, stream } = call;
  elements.remote.srcObject = stream;
  showMuted(Boolean(session.isMuted().audio));
  if (!session.isEstablished()) showCall(session.direction === 'incoming' ? 'ringing-in' : 'dialling', session.direction === 'incoming' ? 'Incoming call' : 'Calling…', peer);
  else if (session.isOnHold().local) showCall('held', 'On hold', peer);
  else showCall('talking', 'Connected', peer, since);
  second();
}

function second() {
  if (asked) showSecond('asked', asked.peer);
  else if (other) showSecond(other.session.isEstablished() ? 'held' : 'waiting', other.peer);
  else showSecond(null);
}

function hold(mine, on, tries = 10) {
  return new Promise((done) => {
    const { session } = mine;
    const finish = () => { if (mine === call) front(); done(); };
    if (session.isEnded()) done();
    else if (session.isOnHold().local === on) finish();
    else if (on ? session.hold({}, finish) : session.unhold({}, finish)) return;
    // Another change is under way.
    else if (tries > 0) setTimeout(() => hold(mine, on, tries - 1).then(done), 300);
    else done();
  });
}

// Make room for another call: the current one is held behind it.
function park() {
  if (call && !call.session.isEnded()) other = call;
}

async function yes() {
  if (asked) {
    const { accept, peer } = asked;
    asked = null;
    const servers = await iceServers();
    park();
    accept((session) => { attach(session, peer, marker()); showCall('dialling', 'Calling…', peer); },
      { mediaConstraints: media(), pcConfig: { iceServers: servers } });
    return;
  }
  if (!other) return;
  await hold(call, true);
  [call, other] = [other, call];
  if (call.session.isEstablished()) await hold(call, false);
  else await answer();
  front();
}

function no() {
  if (asked) {
    asked.reject();
    asked = null;
  } else if (other) {
    other.session.terminate(other.session.isEstablished() ? {} : { status_code: 603 });
  }
  second();
}

// Connect the two others with each other; both calls end here when that is done.
function join() {
  if (!other?.session.isEstablished() || !call.session.isEstablished()) return;
  showCall('connecting', 'Connecting both…');
  const failed = () => { notice('The two could not be connected.'); front(); };
  other.session.refer(call.session.remote_identity.uri, {
    replaces: call.session,
    eventHandlers: { accepted: () => notice(null), failed, requestFailed: failed },
  });
}

// The other side wants to transfer: that may cost money, so the user decides.
function ask({ request, accept, reject }) {
  if (other || asked) {
    reject();
    return;
  }
  const { uri } = request.refer_to;
  asked = { accept, reject, peer: uri.user ?? uri.host };
  second();
}

// ---- messages ----

function send(target, text) {
  const address = /^[+0-9*#\s().-]+$/.test(target) ? target.replace(/[\s().-]/g, '') : target.trim();
  const mark = showMessage('sent', target, text);
  try {
    ua.sendMessage(address, text, {
      eventHandlers: { succeeded: () => mark(null), failed: ({ response, cause }) => mark(explain(response, cause)) },
    });
  } catch {
    mark('this is not a number or an address.');
  }
}

function wire() {
  elements['log-out'].addEventListener('click', async () => {
    try {
      if (ua?.isRegistered()) await new Promise((done) => { ua.once('unregistered', done); ua.unregister(); setTimeout(done, LOG_OUT_GRACE_MS); });
      await logOut();
      location.reload();
    } catch (error) {
      notice(error.message);
    }
  });
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
  elements.hold.addEventListener('click', () => hold(call, !call.session.isOnHold().local));
  elements['second-yes'].addEventListener('click', yes);
  elements['second-no'].addEventListener('click', no);
  elements['second-join'].addEventListener('click', join);
  elements.write.addEventListener('submit', (event) => {
    event.preventDefault();
    send(elements.to.value, elements.text.value);
    elements.text.value = '';
  });
  elements.keypad.addEventListener('click', () => showKeypad(elements.tones.hidden));
  elements.processing.checked = localStorage.getItem('processing') !== 'off';
  elements.processing.addEventListener('change', () =>
    localStorage.setItem('processing', elements.processing.checked ? 'on' : 'off'));
  addEventListener('pagehide', () => { for (const each of [call, other]) if (each && !each.session.isEnded()) each.session.terminate(); ua?.stop(); });
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
