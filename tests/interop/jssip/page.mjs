// The real JsSIP in Node, without a browser: one JSON object a line tells it what to do, one a line says what happened.
// WebRTC is a stand-in that speaks with descriptions which a browser wrote; everything that is SIP is JsSIP's own.

import { createInterface } from 'node:readline';

const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);

globalThis.window = globalThis;
const plainWebSocket = globalThis.WebSocket;
let description = '';
let handover = {};

// The page's WebSocket goes through the WWPF, which adds the origin that it has checked and the hand-over header.
globalThis.WebSocket = class extends plainWebSocket {
  constructor(url, protocols) {
    super(url, { protocols: [protocols].flat(), headers: handover });
    this.addEventListener('error', () => say('refused'));
  }
};

globalThis.RTCSessionDescription = class {
  constructor({ type, sdp }) { Object.assign(this, { type, sdp }); }
};

let restarts = 0;

globalThis.RTCPeerConnection = class extends EventTarget {
  signalingState = 'stable';
  iceGatheringState = 'complete';
  iceConnectionState = 'new';
  connectionState = 'new';
  localDescription = null;
  remoteDescription = null;
  addTrack() {}
  getSenders() { return []; }
  async createOffer(constraints) {
    if (constraints?.iceRestart) restarts += 1;
    const sdp = description.replace(/a=ice-ufrag:\S+/, `a=ice-ufrag:test${restarts}`);
    return { type: 'offer', sdp };
  }
  async createAnswer() {
    const way = /a=(sendonly|recvonly|inactive)/.exec(this.remoteDescription.sdp)?.[1];
    const reverse = { sendonly: 'recvonly', recvonly: 'sendonly', inactive: 'inactive' }[way] ?? 'sendrecv';
    return { type: 'answer', sdp: description.replace('a=setup:actpass', 'a=setup:active').replace('a=sendrecv', `a=${reverse}`) };
  }
  async setLocalDescription(local) {
    this.localDescription = local;
    this.signalingState = local.type === 'offer' ? 'have-local-offer' : 'stable';
    // After a restart JsSIP waits for the end of gathering.
    setTimeout(() => this.dispatchEvent(Object.assign(new Event('icecandidate'), { candidate: null })), 5);
  }
  async setRemoteDescription(remote) {
    if (remote.type === 'answer' && this.signalingState !== 'have-local-offer') throw new Error('no offer was made');
    if (!/^v=0\r\n/.test(remote.sdp) || !/a=fingerprint:/.test(remote.sdp)) throw new Error('not a WebRTC description');
    this.remoteDescription = remote;
    this.signalingState = remote.type === 'offer' ? 'have-remote-offer' : 'stable';
    say('remote', { type: remote.type, sdp: remote.sdp });
  }
  close() { this.signalingState = 'closed'; }
};

const { default: JsSIP } = await import('jssip');
const stream = { getTracks: () => [], getAudioTracks: () => [], getVideoTracks: () => [] };
let ua = null;
let refusesTransfers = false;
const sessions = new Map();

const words = (message) => ({
  status: message?.status_code ?? null,
  phrase: message?.reason_phrase ?? null,
  warning: message?.getHeader?.('Warning') ?? null,
  reason: message?.getHeader?.('Reason') ?? null,
  retry: message?.getHeader?.('Retry-After') ?? null,
});

function watch(session, name) {
  sessions.set(name, session);
  const tell = (event, more) => say(event, { call: name, ...more });
  session.on('sending', () => tell('sending'));
  session.on('progress', ({ originator, response }) => {
    if (originator === 'remote') tell('progress', { status: response.status_code, body: Boolean(response.body) });
  });
  session.on('accepted', ({ originator }) => tell('accepted', { originator }));
  session.on('confirmed', ({ originator }) => tell('confirmed', { originator }));
  session.on('failed', ({ originator, cause, message }) => tell('failed', { originator, cause, ...words(message) }));
  session.on('newInfo', ({ info }) => {
    for (const outcome of ['succeeded', 'failed']) info.on(outcome, ({ response }) => tell('info', words(response)));
  });
  // As the operator's page does: it goes where it is sent, and takes over what takes over its call.
  session.on('refer', ({ request, accept, reject }) => {
    tell('transfer', { target: request.refer_to.uri.toString() });
    if (refusesTransfers) { reject(); return; }
    accept((fresh) => watch(fresh, 'transferred'), { mediaStream: stream });
  });
  session.on('replaces', ({ accept }) => { tell('replaces'); accept(); });
  session.on('ended', ({ originator, cause, message }) => tell('ended', { originator, cause, ...words(message) }));
}

const actions = {
  start(config) {
    description = config.sdp;
    handover = config.headers;
    ua = new JsSIP.UA({
      sockets: [new JsSIP.WebSocketInterface(config.url)],
      uri: config.uri,
      display_name: config.display ?? null,
      register: config.register ?? true,
      register_expires: 600,
      session_timers: config.session_timers ?? false,
      connection_recovery_min_interval: 1,
      connection_recovery_max_interval: 2,
    });
    ua.on('connected', () => say('connected'));
    ua.on('disconnected', ({ code }) => say('disconnected', { code: code ?? null }));
    ua.on('registered', () => say('registered'));
    ua.on('unregistered', () => say('unregistered'));
    ua.on('registrationFailed', ({ cause, response }) => say('registrationFailed', { cause, ...words(response) }));
    ua.on('newMessage', ({ message, originator, request }) => {
      if (originator === 'remote') {
        say('text', { body: request.body, from: message.remote_identity.uri.toString() });
      }
    });
    ua.on('newRTCSession', ({ session, originator, request }) => {
      if (originator !== 'remote') return;
      const name = `in-${sessions.size}`;
      watch(session, name);
      const from = session.remote_identity;
      say('incoming', { call: name, display: from.display_name, uri: from.uri.toString(), ruri: request.ruri.toString() });
    });
    ua.start();
  },
  call({ call, target, ...options }) {
    // 'sending' is told from within the call, so it has to be known before.
    const session = new JsSIP.RTCSession(ua);
    watch(session, call);
    session.connect(target, { mediaStream: stream, ...options });
  },
  answer({ call }) { sessions.get(call).answer({ mediaStream: stream }); },
  terminate({ call, ...options }) { sessions.get(call).terminate(options); },
  hold({ call }) { sessions.get(call).hold({}, () => say('held', { call })); },
  unhold({ call }) { sessions.get(call).unhold({}, () => say('unheld', { call })); },
  restart({ call }) {
    sessions.get(call).renegotiate({ rtcOfferConstraints: { iceRestart: true } }, () => say('renegotiated', { call }));
  },
  info({ call, type, body }) { sessions.get(call).sendInfo(type, body); },
  refer({ call, target, replaces }) {
    const tell = (step) => (data) => say('refer', {
      call, step, ...words(data?.response), told: data?.status_line?.status_code ?? null,
    });
    sessions.get(call).refer(target, {
      ...(replaces ? { replaces: sessions.get(replaces) } : {}),
      eventHandlers: {
        requestFailed: tell('refused'), trying: tell('trying'), progress: tell('progress'),
        accepted: tell('accepted'), failed: tell('failed'),
      },
    });
  },
  refuseTransfers() { refusesTransfers = true; },
  dtmf({ call, tones }) { sessions.get(call).sendDTMF(tones, { transportType: 'INFO' }); },
  message({ target, body }) {
    ua.sendMessage(target, body, {
      eventHandlers: {
        succeeded: ({ response }) => say('message', words(response)),
        failed: ({ response }) => say('message', words(response)),
      },
    });
  },
  drop() { ua._transport.socket._ws.close(); },
  register() { ua.register(); },
  unregister() { ua.unregister(); },
  stop() { ua.stop(); },
  exit() { process.exit(0); },
};

process.on('uncaughtException', (error) => say('crashed', { text: String(error.stack) }));
process.on('unhandledRejection', (error) => say('crashed', { text: String(error?.stack ?? error) }));

for await (const line of createInterface({ input: process.stdin })) {
  const { do: action, ...more } = JSON.parse(line);
  try {
    actions[action](more);
  } catch (error) {
    say('crashed', { text: String(error.stack) });
  }
}
process.exit(0);
