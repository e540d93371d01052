// What a page of the tests hears: the strongest frequency of the call's sound.

export function remoteAudio() {
  let audio = document.querySelector('audio');
  if (!audio) {
    audio = document.createElement('audio');
    audio.autoplay = true;
    document.body.append(audio);
  }
  return audio;
}

// Resolves when a tone of this frequency (Hz, within 20) has been the strongest for a second in all.
export async function pitch(wanted) {
  const context = new AudioContext({ sampleRate: 48000 });
  await context.resume();
  const analyser = new AnalyserNode(context, { fftSize: 16384, smoothingTimeConstant: 0 });
  let source = null;
  let connected = null;
  const bins = new Float32Array(analyser.frequencyBinCount);
  const heard = [];
  for (let right = 0; right < 10;) {
    await new Promise((done) => setTimeout(done, 100));
    const stream = remoteAudio().srcObject;
    if (stream && stream !== connected && stream.getAudioTracks().length) {
      source?.disconnect();
      source = context.createMediaStreamSource(stream);
      source.connect(analyser);
      connected = stream;
    }
    analyser.getFloatFrequencyData(bins);
    let best = 10;
    bins.forEach((value, index) => { if (index > 10 && value > bins[best]) best = index; });
    const frequency = (best * context.sampleRate) / analyser.fftSize;
    if (bins[best] > -60 && Math.abs(frequency - wanted) < 20) right += 1;
    heard.push([Math.round(frequency), Math.round(bins[best])]);
    window.heard = heard.slice(-20);
  }
  await context.close();
  return true;
}
