"""The transcoder alone: timestamps, losses, pauses, silence, packets of other durations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from imskit.media.codecs import CodecSpec, make_decoder, make_encoder
from imskit.media.transcoder import MAX_CONCEALED, Frame, Transcoder

OPUS = CodecSpec("opus")
AMR_WB = CodecSpec("AMR-WB")
AMR = CodecSpec("AMR")
PCMA = CodecSpec("PCMA")
G722 = CodecSpec("G722")


def payloads(spec: CodecSpec, pcm: np.ndarray, rate: int) -> list[bytes]:
    encoder = make_encoder(spec, rate)
    size = rate // 50
    return [encoder.encode(pcm[i : i + size].tobytes()) or b"" for i in range(0, len(pcm) - size + 1, size)]


def decoded(spec: CodecSpec, frames: list[Frame], rate: int) -> np.ndarray:
    decoder = make_decoder(spec, rate)
    return np.frombuffer(b"".join([decoder.decode(frame.payload) for frame in frames]), np.int16)


@pytest.mark.parametrize("source", [OPUS, G722, PCMA, CodecSpec("PCMU")], ids=lambda spec: spec.name)
@pytest.mark.parametrize("target", [AMR_WB, AMR], ids=lambda spec: spec.name)
def test_every_page_codec_to_every_ims_codec_and_back(
    source: CodecSpec, target: CodecSpec, speech: Callable[..., np.ndarray], correlation: Callable[..., float]
) -> None:
    """S7-RMF: Opus, G.722, PCMU, PCMA <-> AMR-WB, AMR; steps of timestamps are 20 ms of each clock."""
    rate = 8000 if source.name in ("PCMA", "PCMU") else 16000
    said = speech(rate, 1.0)
    there, back = Transcoder(source, target), Transcoder(target, source)
    there.begin_at(0xFFFFFF00)
    back.begin_at(7)
    arriving: list[Frame] = []
    leaving: list[Frame] = []
    for index, payload in enumerate(payloads(source, said, rate)):
        for frame in there.packet(index * source.clock_rate // 50 & 0xFFFFFFFF, payload):
            arriving.append(frame)
            leaving += back.packet(frame.timestamp, frame.payload)
    assert len(arriving) == len(leaving) == 50
    assert [frame.timestamp for frame in arriving] == [
        (0xFFFFFF00 + index * target.clock_rate // 50) & 0xFFFFFFFF for index in range(50)
    ]
    assert [frame.timestamp for frame in leaving] == [7 + index * source.clock_rate // 50 for index in range(50)]
    assert [frame.marker for frame in arriving] == [True] + [False] * 49
    heard = decoded(source, leaving, rate)
    if target is AMR and rate == 16000:  # narrowband in between: compare what a telephone passes
        said, heard = said[::2], heard[::2]
    assert correlation(said, heard, 600) > 0.8
    assert there.stats.frames == 50 and there.stats.mean_milliseconds > 0


def test_a_lost_packet_is_made_up_and_the_clock_goes_on(speech: Callable[..., np.ndarray]) -> None:
    packets = payloads(OPUS, speech(16000, 1.0), 16000)
    transcoder = Transcoder(OPUS, AMR_WB)
    transcoder.begin_at(0)
    frames: list[Frame] = []
    lost = 0
    for index, payload in enumerate(packets):
        if index in (10, 20, 21):
            lost += 1
            continue
        frames += transcoder.packet(index * 960, payload, lost=lost)
        lost = 0
    assert [frame.timestamp for frame in frames] == [index * 320 for index in range(50)]
    assert not any(frame.marker for frame in frames[1:])
    assert transcoder.stats.concealed == 3
    loud = [float(np.std(decoded(AMR_WB, frames, 16000)[index * 320 : index * 320 + 320])) for index in range(50)]
    assert loud[10] > loud[9] / 4


def test_a_long_loss_becomes_a_pause(speech: Callable[..., np.ndarray]) -> None:
    packets = payloads(PCMA, speech(8000, 0.1), 8000)
    transcoder = Transcoder(PCMA, AMR)
    transcoder.begin_at(0)
    transcoder.packet(0, packets[0])
    frames = transcoder.packet(160 * 50, packets[1], lost=49)
    assert len(frames) == MAX_CONCEALED + 1
    assert frames[-1].timestamp == 160 * 50 and frames[-1].marker
    assert [frame.timestamp for frame in frames[:-1]] == [160 * n for n in range(1, MAX_CONCEALED + 1)]


def test_a_pause_without_loss_stays_a_pause(speech: Callable[..., np.ndarray]) -> None:
    """A sender with DTX moves its timestamp on, not its sequence number: nothing is made up."""
    packets = payloads(OPUS, speech(16000, 0.1), 16000)
    transcoder = Transcoder(OPUS, AMR_WB)
    transcoder.begin_at(100)
    transcoder.packet(0, packets[0])
    (frame,) = transcoder.packet(960 * 30, packets[1])
    assert frame.timestamp == 100 + 320 * 30 and frame.marker
    assert transcoder.stats.concealed == 0


def test_a_timestamp_that_goes_back_does_not_take_us_back(speech: Callable[..., np.ndarray]) -> None:
    packets = payloads(OPUS, speech(16000, 0.1), 16000)
    transcoder = Transcoder(OPUS, AMR_WB)
    transcoder.begin_at(0)
    transcoder.packet(1_000_000, packets[0])
    (frame,) = transcoder.packet(5000, packets[1])
    assert frame.timestamp == 320
    (frame,) = transcoder.packet(5960, packets[2])
    assert frame.timestamp == 640


@pytest.mark.parametrize("milliseconds", [10, 30, 40, 60])
def test_packets_of_other_durations_become_frames_of_20_ms(
    milliseconds: int, speech: Callable[..., np.ndarray], correlation: Callable[..., float]
) -> None:
    said = speech(8000, 1.2)
    octets = payloads(PCMA, said, 8000)
    stream = b"".join(octets)
    size = 8 * milliseconds
    transcoder = Transcoder(PCMA, CodecSpec("PCMU"))
    transcoder.begin_at(0)
    frames: list[Frame] = []
    for start in range(0, len(stream) - size + 1, size):
        frames += transcoder.packet(start, stream[start : start + size])
    assert [frame.timestamp for frame in frames] == [160 * index for index in range(len(frames))]
    assert all(len(frame.payload) == 160 for frame in frames)
    assert correlation(said, decoded(CodecSpec("PCMU"), frames, 8000), 1) > 0.99


def test_a_damaged_payload_is_concealed(speech: Callable[..., np.ndarray]) -> None:
    transcoder = Transcoder(AMR_WB, OPUS)
    transcoder.begin_at(0)
    packets = payloads(AMR_WB, speech(16000, 0.2), 16000)
    frames: list[Frame] = []
    for index, payload in enumerate(packets):
        frames += transcoder.packet(index * 320, payload[:-5] if index == 3 else payload)
    assert len(frames) == len(packets)
    assert transcoder.stats.damaged == 1


@pytest.mark.parametrize("name", ["AMR", "AMR-WB"])
def test_silence_of_an_amr_sender_is_filled_with_its_noise(name: str, speech: Callable[..., np.ndarray]) -> None:
    """SID frames every 160 ms: between them ``comfort_noise`` keeps the page supplied, without overlap or holes."""
    source = CodecSpec(name, dtx=True)
    rate = source.clock_rate
    noise = np.random.default_rng(5).normal(0, 30, 2 * rate).astype(np.int16)
    said = np.concatenate([speech(rate, 0.4), noise, speech(rate, 0.4)])
    transcoder = Transcoder(source, OPUS)
    transcoder.begin_at(0)
    frames: list[Frame] = []
    behind = False
    for index, payload in enumerate(payloads(source, said, rate)):
        if payload:
            frames += transcoder.packet(index * rate // 50, payload)
            behind = False
        elif behind:  # as the bridge does: one frame later than the sender
            assert transcoder.in_silence
            frames += transcoder.comfort_noise()
        else:
            behind = True
    assert [frame.timestamp for frame in frames] == [960 * index for index in range(len(frames))]
    assert len(frames) == len(said) * 50 // rate
    heard = decoded(OPUS, frames, 16000)
    quiet = heard[16000 : 2 * 16000].astype(float)
    assert 5 < quiet.std() < 100
    assert transcoder.comfort_noise() == []
    assert transcoder.stats.concealed == 0


def test_begin_at_moves_the_leaving_stream() -> None:
    silence = make_encoder(PCMA, 8000).encode(bytes(320))
    assert silence is not None
    transcoder = Transcoder(PCMA, CodecSpec("PCMU"))
    transcoder.begin_at(10)
    assert transcoder.packet(0, silence)[0].timestamp == 10
    transcoder.begin_at(5000)
    (frame,) = transcoder.packet(999_999, silence)
    assert frame.timestamp == 5000 and frame.marker
