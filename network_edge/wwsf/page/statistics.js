// Numbers of the running call, read once a second from the browser's own statistics.

import { showStatistics } from './view.js';

const PERIOD_MS = 1000;

export function watch(connection, mark) {
  let before = null;
  const read = async () => {
    const report = await connection.getStats();
    const found = pick(report);
    if (found.received?.packetsReceived > 0) mark('media-in');
    if (found.sent?.packetsSent > 0) mark('media-out');
    showStatistics(rows(found, before));
    before = found;
  };
  const timer = setInterval(() => read().catch(() => stop()), PERIOD_MS);
  const stop = () => clearInterval(timer);
  return stop;
}

function pick(report) {
  const found = {};
  for (const entry of report.values()) {
    if (entry.type === 'inbound-rtp' && entry.kind === 'audio') found.received = entry;
    if (entry.type === 'outbound-rtp' && entry.kind === 'audio') found.sent = entry;
    if (entry.type === 'remote-inbound-rtp' && entry.kind === 'audio') found.heard = entry;
    if (entry.type === 'candidate-pair' && entry.nominated && entry.state === 'succeeded') found.pair = entry;
  }
  if (found.received) found.codec = report.get(found.received.codecId);
  if (found.pair) found.local = report.get(found.pair.localCandidateId);
  return found;
}

function rows({ received, sent, heard, pair, codec, local }, before) {
  const text = [];
  if (codec) text.push(['Codec', `${codec.mimeType.replace('audio/', '')} ${codec.clockRate / 1000} kHz`]);
  if (local) text.push(['Path', `${local.candidateType} ${(local.relayProtocol ?? local.protocol).toUpperCase()}`]);
  if (received) {
    text.push(['Received', `${received.packetsReceived} packets, ${rate(received, before?.received, 'bytesReceived')}`]);
    text.push(['Lost', `${received.packetsLost}`]);
    text.push(['Jitter', `${Math.round(received.jitter * 1000)} ms`]);
  }
  if (sent) text.push(['Sent', `${sent.packetsSent} packets, ${rate(sent, before?.sent, 'bytesSent')}`]);
  if (heard?.fractionLost !== undefined) text.push(['Lost on the way out', `${(heard.fractionLost * 100).toFixed(1)} %`]);
  const delay = pair?.currentRoundTripTime;
  if (delay !== undefined) text.push(['Round trip', `${Math.round(delay * 1000)} ms`]);
  return text;
}

function rate(now, before, field) {
  if (!before || now.timestamp <= before.timestamp) return '–';
  return `${((now[field] - before[field]) * 8 / (now.timestamp - before.timestamp)).toFixed(0)} kbit/s`;
}
