// Who the user is, or how to log in, and what the operator hands out for a call.

export async function fetchSession() {
  const answer = await fetch('/api/session', { headers: { Accept: 'application/json' } });
  if (answer.status === 401) {
    const { log_in: offered } = await answer.json().catch(() => ({}));
    return { offered: offered ?? { password: false, providers: [] } };
  }
  if (!answer.ok) throw new Error(`The portal answered ${answer.status}.`);
  return answer.json();
}

const MARGIN_SECONDS = 60;
let relay = null;

// ICE servers with time-limited credentials; kept until they are about to expire.
export async function iceServers() {
  if (relay && performance.now() < relay.until) return relay.servers;
  const answer = await fetch('/api/turn', { headers: { Accept: 'application/json' } });
  if (!answer.ok) throw new Error(`The portal gave no media relay (${answer.status}).`);
  const { username, password, ttl, uris } = await answer.json();
  relay = {
    servers: uris.length ? [{ urls: uris, username, credential: password }] : [],
    until: performance.now() + Math.max(0, ttl - MARGIN_SECONDS) * 1000,
  };
  return relay.servers;
}

// Who serves the relay may have been started anew with the line, and know no credential of before.
export function forgetIceServers() {
  relay = null;
}
