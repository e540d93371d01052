// What the user sees. Everything that a test or a style sheet needs is a data attribute of <main>.

const $ = (id) => document.getElementById(id);
const main = document.querySelector('main');

export const elements = Object.fromEntries(
  ['dial', 'number', 'erase', 'pad', 'call', 'current', 'answer', 'mute', 'hold', 'keypad', 'hangup', 'tones', 'second', 'second-yes', 'second-join', 'second-no',
    'to', 'text', 'send', 'write', 'thread', 'processing', 'remote', 'log-out']
    .map((id) => [id, $(id)]));

export function showSession(state, identity, canLeave = false) {
  main.dataset.session = state;
  elements['log-out'].hidden = !canLeave;
  $('identity').hidden = !identity;
  if (identity) $('identity').querySelector('strong').textContent = identity;
}

export function showLine(state, text) {
  main.dataset.line = state;
  $('line').textContent = text;
  elements.call.disabled = elements.send.disabled = state !== 'ready';
}

export function notice(text) {
  $('notice').textContent = text ?? '';
  $('notice').hidden = !text;
}

let clock = null;

// state: idle, dialling, ringing-out, ringing-in, early, connecting, talking, held, ended
export function showCall(state, text = '', peer = null, since = null) {
  main.dataset.call = state;
  const idle = state === 'idle';
  elements.current.hidden = idle;
  $('dialler').hidden = !idle && state !== 'held'; // with a call on hold another one can be made
  if (peer !== null) $('peer').textContent = peer;
  $('state').textContent = text;
  elements.answer.hidden = state !== 'ringing-in';
  elements.hangup.textContent = { 'ringing-in': 'Decline', ended: 'Close' }[state] ?? 'Hang up';
  elements.mute.hidden = elements.keypad.hidden = state !== 'talking';
  elements.hold.hidden = !['talking', 'held'].includes(state);
  elements.hold.setAttribute('aria-pressed', String(state === 'held'));
  elements.hold.textContent = state === 'held' ? 'Resume' : 'Hold';
  if (state !== 'talking') showKeypad(false);
  if (state === 'talking') startClock(since);
  else stopClock(['ended', 'held'].includes(state));
}

// kind: waiting (a second call rings), held (a second call is on hold), asked (the other side wants to transfer), or null
export function showSecond(kind, peer = '') {
  elements.second.hidden = kind === null;
  if (kind === null) return;
  $('dialler').hidden = true; // two are enough
  elements.second.dataset.kind = kind;
  const shown = {
    waiting: ['Another call', 'Hold and answer', 'Decline'],
    held: ['On hold', 'Swap', 'Hang up'],
    asked: ['The other side wants to connect you with', 'Connect', 'Stay'],
  }[kind];
  $('second-state').textContent = shown[0];
  $('second-peer').textContent = peer;
  elements['second-yes'].textContent = shown[1];
  elements['second-no'].textContent = shown[2];
  elements['second-join'].hidden = kind !== 'held';
}

// Returns what marks the message once it is known whether it was sent.
export function showMessage(kind, who, text) {
  const item = document.createElement('li');
  item.className = kind;
  const head = document.createElement('small');
  head.textContent = kind === 'sent' ? `To ${who}` : who;
  item.append(head, text);
  elements.thread.append(item);
  while (elements.thread.children.length > 100) elements.thread.firstChild.remove();
  item.scrollIntoView({ block: 'nearest' });
  return (failure) => {
    if (!failure) return;
    item.classList.add('failed');
    head.textContent = `To ${who}: ${failure}`;
  };
}

export function showKeypad(on) {
  elements.tones.hidden = !on;
  elements.keypad.setAttribute('aria-pressed', String(on));
}

export function showMuted(on) {
  elements.mute.setAttribute('aria-pressed', String(on));
  elements.mute.textContent = on ? 'Unmute' : 'Mute';
}

function startClock(since) {
  const started = since ?? performance.now();
  stopClock();
  const tick = () => {
    const seconds = Math.floor((performance.now() - started) / 1000);
    $('timer').textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  };
  tick();
  $('timer').hidden = false;
  clock = setInterval(tick, 250);
}

function stopClock(keepShown = false) {
  clearInterval(clock);
  if (!keepShown) $('timer').hidden = true;
}

const LETTERS = { 2: 'ABC', 3: 'DEF', 4: 'GHI', 5: 'JKL', 6: 'MNO', 7: 'PQRS', 8: 'TUV', 9: 'WXYZ', 0: '+' };

export function buildPad(container, press) {
  for (const key of '123456789*0#') {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.key = key;
    button.append(key);
    const letters = document.createElement('small');
    letters.textContent = LETTERS[key] ?? '';
    button.append(letters);
    button.addEventListener('click', () => press(key));
    if (key === '0') button.addEventListener('contextmenu', (event) => { event.preventDefault(); press('+'); });
    container.append(button);
  }
}

export function showStatistics(rows) {
  const list = document.querySelector('#statistics dl');
  list.replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement('dt');
    const text = document.createElement('dd');
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}
