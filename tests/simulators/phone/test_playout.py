"""The phone's ear on a virtual clock: order, loss, silence, drift of the path."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from imskit.media.codecs import CodecSpec, make_encoder
from simulators.phone.playout import Playout

WB, NB = CodecSpec("AMR-WB"), CodecSpec("AMR")
SSRC = 7


def speech(spec: CodecSpec, frames: int, hertz: float = 500.0) -> list[bytes]:
    """Payloads of a tone."""
    rate = 16000 if spec is WB or spec.name == "AMR-WB" else 8000
    encoder = make_encoder(spec, rate)
    tone = (9000 * np.sin(2 * np.pi * hertz * np.arange(frames * rate // 50) / rate)).astype(np.int16)
    size = rate // 50
    payloads = [encoder.encode(tone[i * size : (i + 1) * size].tobytes()) for i in range(frames)]
    return [payload for payload in payloads if payload is not None]


class Ear:
    """Feeds packets by their time of arrival and plays every 20 ms."""

    def __init__(self, spec: CodecSpec = WB, delay: float = 0.06) -> None:
        self.spec = spec
        self.playout = Playout({96: spec}, delay)
        self.step = spec.clock_rate // 50

    def run(
        self, arrivals: list[tuple[float, int, bytes]], frames: int, *, base: int = 1000, ssrc: int = SSRC
    ) -> npt.NDArray[np.float64]:
        """``arrivals`` are (time, frame number, payload); returns the level of each frame played."""
        waiting = sorted(arrivals, key=lambda item: item[0])
        levels = []
        for tick in range(frames):
            now = tick * 0.02
            while waiting and waiting[0][0] <= now:
                at, number, payload = waiting.pop(0)
                timestamp = (base + number * self.step) & 0xFFFFFFFF
                self.playout.arrived(ssrc, 96, timestamp, payload, at)
            pcm = self.playout.frame(now)
            assert len(pcm) == 640
            levels.append(float(np.sqrt(np.mean(np.frombuffer(pcm, np.int16).astype(float) ** 2))))
        return np.array(levels)


def on_time(payloads: list[bytes], jitter: dict[int, float] | None = None) -> list[tuple[float, int, bytes]]:
    return [(0.02 * n + (jitter or {}).get(n, 0.0), n, payload) for n, payload in enumerate(payloads)]


@pytest.mark.parametrize("spec", [WB, NB])
@pytest.mark.parametrize("base", [1000, 0xFFFFFFFF - 2000])
def test_steady_stream(spec: CodecSpec, base: int) -> None:
    """Also when the timestamp goes round."""
    ear = Ear(spec)
    levels = ear.run(on_time(speech(spec, 50)), 52, base=base)
    assert not levels[:3].any()
    assert (levels[6:50] > 2000).all()
    stats = ear.playout.stats
    assert (stats.played, stats.concealed, stats.late) == (49, 0, 0)
    assert stats.delay_ms == pytest.approx(60, abs=20)


def test_what_came_before_anybody_listened_is_passed_over() -> None:
    """Media comes before the call is answered; what is heard then is what was just spoken."""
    ear = Ear()
    for number, payload in enumerate(speech(WB, 100)):
        ear.playout.arrived(SSRC, 96, number * ear.step, payload, 0.02 * number)
    listening_from = 1.0
    frames = [ear.playout.frame(listening_from + 0.02 * tick) for tick in range(60)]
    heard = sum(np.frombuffer(frame, np.int16).any() for frame in frames)
    assert 50 <= heard <= 60, "the last second and what is made up after its end"
    assert ear.playout.stats.played == pytest.approx(100 - (listening_from - 0.06) / 0.02, abs=1)
    assert ear.playout.stats.delay_ms == pytest.approx(60, abs=20)


def test_packets_that_overtake_each_other_are_put_in_order() -> None:
    ear = Ear()
    jitter = dict.fromkeys(range(0, 50, 7), 0.045)
    levels = ear.run(on_time(speech(WB, 50), jitter), 53)
    assert (levels[8:50] > 2000).all()
    assert ear.playout.stats.concealed == 0


def test_the_first_packet_overtaken_by_the_second() -> None:
    ear = Ear()
    ear.run(on_time(speech(WB, 50), {0: 0.025}), 53)
    assert ear.playout.stats.played >= 49
    assert ear.playout.stats.late == 0


def test_lost_frames_are_concealed_and_the_rest_keeps_its_time() -> None:
    ear = Ear()
    payloads = speech(WB, 60)
    arrivals = [item for item in on_time(payloads) if item[1] not in (20, 21, 40)]
    levels = ear.run(arrivals, 63)
    assert ear.playout.stats.concealed == 3
    assert (levels[10:] > 1000).all()


def test_a_long_gap_becomes_silence_and_speech_resumes_at_its_time() -> None:
    ear = Ear()
    payloads = speech(WB, 100)
    arrivals = [item for item in on_time(payloads) if not 30 <= item[1] < 80]
    levels = ear.run(arrivals, 104)
    assert not levels[45:80].any(), "silence in the gap"
    assert (levels[86:100] > 2000).all()
    assert ear.playout.stats.concealed <= 10, "five in the gap, the rest after the end"


def test_a_late_packet_is_dropped_and_a_longer_path_is_learnt() -> None:
    ear = Ear()
    levels = ear.run(on_time(speech(WB, 100), dict.fromkeys([20, *range(50, 100)], 0.1)), 110)
    assert ear.playout.stats.late >= 1
    assert ear.playout.stats.resynchronised == 1
    assert (levels[62:100] > 2000).all()


def test_another_source_takes_over() -> None:
    ear = Ear()
    ear.run(on_time(speech(WB, 20)), 20)
    levels = ear.run(on_time(speech(WB, 30)), 33, base=0x70000000, ssrc=8)
    assert (levels[7:30] > 2000).all()
    assert ear.playout.stats.resynchronised == 1


def test_silence_of_a_dtx_sender_is_comfort_noise() -> None:
    encoder = make_encoder(CodecSpec("AMR", dtx=True), 8000)
    rng = np.random.default_rng(1)
    arrivals = []
    for number in range(150):
        loud = 6000 if number < 40 else 30
        payload = encoder.encode((loud * rng.standard_normal(160)).clip(-32000, 32000).astype(np.int16).tobytes())
        if payload is not None:
            arrivals.append((number * 0.02, number, payload))
    assert len(arrivals) < 110, "the encoder has stopped sending in between"
    ear = Ear(NB)
    levels = ear.run(arrivals, 150)
    stats = ear.playout.stats
    assert stats.noise > 30
    assert stats.concealed == 0
    assert (levels[10:40] > 1000).all()
    assert (levels[80:] < 500).all()


def test_what_was_not_agreed_and_what_cannot_be_read() -> None:
    playout = Playout({96: WB}, 0.0)
    playout.arrived(SSRC, 97, 0, b"x" * 40, 0.0)
    playout.arrived(SSRC, 96, 0, b"", 0.0)
    assert playout.frame(0.0) == bytes(640)
    assert playout.stats.played == 0
    playout.arrived(SSRC, 96, 0, b"\xff", 0.0)
    playout.frame(0.02)
    assert playout.stats.damaged == 1


def test_memory_is_bounded() -> None:
    playout = Playout({96: WB}, 1.0)
    for number in range(10_000):
        playout.arrived(SSRC, 96, number, b"x" * 33, 0.0)
    assert len(playout._held) <= 250
