// SIP.js as its own demos use it: a SimpleUser with the server's URL, an address of record and an <audio>.
// The test drives window.phone; everything between here and the network is the library's.

import { Web } from 'sip.js';
import { pitch, remoteAudio } from '../page/ear.mjs';

const waiting = { registered: [], incoming: [], confirmed: [], ended: [] };
const happened = {};
const tell = (event, value) => { happened[event] = value ?? true; waiting[event].splice(0).forEach((done) => done(happened[event])); };
const until = (event) => (event in happened ? Promise.resolve(happened[event]) : new Promise((done) => waiting[event].push(done)));

let simpleUser = null;
let held = () => {};
const hold = (change) => new Promise((done) => { held = () => done(true); change(); });

window.phone = {
  async register({ server, uri, user, password, token }) {
    simpleUser = new Web.SimpleUser(server, {
      aor: uri,
      media: { constraints: { audio: true, video: false }, remote: { audio: remoteAudio() } },
      userAgentOptions: {
        authorizationUsername: user,
        authorizationPassword: password,
        // The library's default asks a STUN server of the public Internet.
        sessionDescriptionHandlerFactoryOptions: { peerConnectionConfiguration: { iceServers: [] } },
      },
      registererOptions: token ? { extraHeaders: [`Authorization: Bearer ${token}`] } : {},
      delegate: {
        onRegistered: () => tell('registered', { ok: true }),
        onCallReceived: () => tell('incoming', {}),
        onCallAnswered: () => tell('confirmed', { ok: true }),
        onCallHold: () => held(),
        onCallHangup: () => { tell('confirmed', { cause: 'ended' }); tell('ended', {}); },
      },
    });
    await simpleUser.connect();
    await simpleUser.register({
      requestDelegate: { onReject: ({ message }) => tell('registered', { status: message.statusCode }) },
    });
    return until('registered');
  },
  async call(target) {
    for (const event of ['confirmed', 'ended']) delete happened[event];
    await simpleUser.call(target, {}, {
      requestDelegate: { onReject: ({ message }) => tell('confirmed', { status: message.statusCode }) },
    });
    return until('confirmed');
  },
  incoming: () => until('incoming'),
  async answer() {
    for (const event of ['confirmed', 'ended']) delete happened[event];
    await simpleUser.answer();
    return until('confirmed');
  },
  hold: () => hold(() => simpleUser.hold()),
  unhold: () => hold(() => simpleUser.unhold()),
  async hangUp() { await simpleUser.hangup(); return until('ended'); },
  ended: () => until('ended'),
  pitch,
};
