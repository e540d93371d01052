// What the user sees. Everything that a test or a style sheet needs is a data attribute of <main>.

const $ = (id) => document.getElementById(id);
const main = document.querySelector('main');

export const elements = Object.fromEntries(
  ['dial', 'number', 'erase', 'pad', 'call', 'current', 'answer', 'mute', 'keypad', 'hangup', 'tones', 'processing', 'remote']
    .map((id) => [id, $(id)]));

export function showSession(state, identity) {
  main.dataset.session = state;
  $('identity').hidden = !identity;
  if (identity) $('identity').querySelector('strong').textContent = identity;
}

export function showLine(state, text) {
  main.dataset.line = state;
  $('line').textContent = text;
  elements.call.disabled = state !== 'ready';
}

export function notice(text) {
  $('notice').textContent = text ?? '';
  $('notice').hidden = !text;
}

let clock = null;

// state: idle, dialling, ringing-out, ringing-in, early, connecting, talking, ended
export function showCall(state, text = '', peer = null) {
  main.dataset.call = state;
  const idle = state === 'idle';
  elements.current.hidden = idle;
  $('dialler').hidden = !idle;
  if (peer !== null) $('peer').textContent = peer;
  $('state').textContent = text;
  elements.answer.hidden = state !== 'ringing-in';
  elements.hangup.textContent = { 'ringing-in': 'Decline', ended: 'Close' }[state] ?? 'Hang up';
  elements.mute.hidden = elements.keypad.hidden = state !== 'talking';
  if (state !== 'talking') showKeypad(false);
  if (state === 'talking') startClock();
  else stopClock(state === 'ended');
}

export function showKeypad(on) {
  elements.tones.hidden = !on;
  elements.keypad.setAttribute('aria-pressed', String(on));
}

export function showMuted(on) {
  elements.mute.setAttribute('aria-pressed', String(on));
  elements.mute.textContent = on ? 'Unmute' : 'Mute';
}

function startClock() {
  const started = performance.now();
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
