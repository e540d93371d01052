// JsSIP as its own demo uses it: a WebSocketInterface, a UA with uri and password, an <audio> for what comes.
// The test drives window.phone; everything between here and the network is the library's.

import JsSIP from 'jssip';
import { pitch, remoteAudio } from '../page/ear.mjs';

const waiting = { registered: [], incoming: [], confirmed: [], ended: [] };
const happened = {};
const tell = (event, value) => { happened[event] = value ?? true; waiting[event].splice(0).forEach((done) => done(happened[event])); };
const until = (event) => (event in happened ? Promise.resolve(happened[event]) : new Promise((done) => waiting[event].push(done)));

JsSIP.debug.enable('JsSIP:*'); // a test that fails shows what the page said

let ua = null;
let session = null;

function watch(rtcSession) {
  session = rtcSession;
  for (const event of ['confirmed', 'ended']) delete happened[event];
  session.on('confirmed', () => tell('confirmed', { ok: true }));
  session.on('failed', ({ cause, message }) => { tell('confirmed', { cause, status: message?.status_code }); tell('ended', { cause }); });
  session.on('ended', ({ cause, originator }) => tell('ended', { cause, originator }));
  const listen = (connection) => connection.addEventListener('track', ({ streams }) => { remoteAudio().srcObject = streams[0]; });
  if (session.connection) listen(session.connection);
  else session.on('peerconnection', ({ peerconnection }) => listen(peerconnection));
}

window.phone = {
  async register({ server, uri, user, password, token }) {
    const socket = new JsSIP.WebSocketInterface(server);
    ua = new JsSIP.UA({ sockets: [socket], uri, authorization_user: user, password });
    if (token) ua.registrator().setExtraHeaders([`Authorization: Bearer ${token}`]);
    ua.on('registered', () => tell('registered', { ok: true }));
    ua.on('registrationFailed', ({ cause, response }) => tell('registered', { cause, status: response?.status_code }));
    ua.on('newRTCSession', ({ originator, session: fresh }) => {
      watch(fresh);
      if (originator === 'remote') tell('incoming', { from: fresh.remote_identity.uri.toString() });
    });
    ua.start();
    return until('registered');
  },
  async call(target) {
    ua.call(target, { mediaConstraints: { audio: true, video: false } });
    return until('confirmed');
  },
  incoming: () => until('incoming'),
  async answer() {
    session.answer({ mediaConstraints: { audio: true, video: false } });
    return until('confirmed');
  },
  async hold() { return new Promise((done) => session.hold({}, () => done(true))); },
  async unhold() { return new Promise((done) => session.unhold({}, () => done(true))); },
  async hangUp() { session.terminate(); return until('ended'); },
  ended: () => until('ended'),
  pitch,
};
