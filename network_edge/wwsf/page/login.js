// Log-in on the page, and what the line registers with. A password is sent once and kept nowhere but in the form.

import JsSIP from 'jssip';

const $ = (id) => document.getElementById(id);
const REFRESH_AT = 0.7; // of a token's life
const RETRY_MS = 5000;

async function post(path, body) {
  const answer = await fetch(path, {
    method: 'POST',
    headers: { Accept: 'application/json', 'Content-Type': 'application/json' },
    body: JSON.stringify(body ?? {}),
  });
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  throw Object.assign(new Error(found.error ?? `The portal answered ${answer.status}.`), { status: answer.status });
}

// Shows what the portal offers; resolves once the user is logged in by password (a provider's link leaves the page).
export function logIn({ password, providers }) {
  $('log-in').hidden = false;
  $('log-in-form').hidden = !password;
  $('providers').replaceChildren(...providers.map(({ label, href }) => {
    const link = document.createElement('a');
    link.href = href;
    link.className = 'button quiet';
    link.textContent = `Sign in with ${label}`;
    return link;
  }));
  $('providers').hidden = !providers.length;
  return ask('log-in', (fields) => post('/api/login', { name: fields['user-name'].value, password: fields.password.value }));
}

// The password of the line itself: it goes to the network in a digest, never to the portal.
export async function linePassword(refused) {
  $('line-log-in').hidden = false;
  if (refused) say('line-log-in', 'The network refused this password.');
  let typed = null;
  await ask('line-log-in', async (fields) => { typed = fields['line-password'].value; });
  return typed;
}

export async function logOut() {
  await post('/api/logout');
}

function ask(id, send) {
  const section = $(id);
  const form = section.querySelector('form');
  const button = form.querySelector('button');
  form.querySelector('input').focus();
  return new Promise((done) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      say(id, null);
      try {
        await send(form.elements);
        form.reset();
        section.hidden = true;
        done();
      } catch (error) {
        say(id, error.status ? error.message : 'The portal cannot be reached. Try again.');
        form.querySelector('input[type=password]').select();
      } finally {
        button.disabled = false;
      }
    };
  });
}

function say(id, text) {
  const place = $(id).querySelector('.problem');
  place.textContent = text ?? '';
  place.hidden = !text;
}

const bearer = (token) => [`Authorization: Bearer ${token}`];

// What JsSIP needs besides the address, by the way in which the portal says that this line registers.
export async function credentials({ method, token, username }, refused = false) {
  if (method === 'token') return { extra_headers: bearer(token) };
  if (method === 'digest') return { authorization_user: username, password: await linePassword(refused) };
  return {};
}

// Keeps a fresh token on every request of the line. `lost` is called once the portal knows the user no more.
export function keepFresh(ua, registration, lost) {
  if (registration.method !== 'token') return { stop() {}, now: async () => false };
  let timer = null;
  let stopped = false;
  const later = (ms) => { if (!stopped) timer = setTimeout(now, ms); };
  async function now() {
    clearTimeout(timer);
    try {
      const { token, expires_in: seconds } = await post('/api/token');
      ua.set('extra_headers', bearer(token));
      later(seconds * REFRESH_AT * 1000);
      return true;
    } catch (error) {
      if (error.status === 401) lost();
      else later(RETRY_MS);
      return false;
    }
  }
  later(registration.expires_in * REFRESH_AT * 1000);
  return { stop() { stopped = true; clearTimeout(timer); }, now };
}

export const refusedPassword = (response, cause) =>
  cause === JsSIP.C.causes.AUTHENTICATION_ERROR || [401, 403, 407].includes(response?.status_code);
