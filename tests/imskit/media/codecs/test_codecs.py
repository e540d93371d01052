"""Every codec against libavcodec's own implementation, its concealment, its silence, and damaged payloads."""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.media.codecs import CodecError, CodecSpec, CodecUnavailableError, make_decoder, make_encoder, native_rate
from imskit.media.codecs import library as codec_library
from imskit.media.codecs.amr import AmrEncoder, payload_format
from imskit.rtp.amr import AmrFrame, AmrPayloadFormat

type Samples = npt.NDArray[np.int16]

SPECS = [
    CodecSpec("opus"),
    CodecSpec("AMR-WB"),
    CodecSpec("AMR-WB", octet_aligned=True, mode_set=(0, 1, 2)),
    CodecSpec("AMR"),
    CodecSpec("AMR", octet_aligned=True, mode_set=(0, 2, 5, 7)),
    CodecSpec("PCMU"),
    CodecSpec("PCMA"),
    CodecSpec("G722"),
]


def rate_of(spec: CodecSpec) -> int:
    return native_rate(spec) or 16000


def frames_of(pcm: Samples, rate: int) -> list[bytes]:
    size = rate // 50
    return [pcm[i : i + size].tobytes() for i in range(0, len(pcm) - size + 1, size)]


def as_samples(pcm: list[bytes]) -> Samples:
    return np.frombuffer(b"".join(pcm), np.int16)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name}{'-oa' if spec.octet_aligned else ''}")
def test_round_trip_sounds_alike(
    spec: CodecSpec, speech: Callable[..., Samples], correlation: Callable[..., float]
) -> None:
    rate = rate_of(spec)
    source = speech(rate)
    encoder, decoder = make_encoder(spec, rate), make_decoder(spec, rate)
    heard = []
    for frame in frames_of(source, rate):
        payload = encoder.encode(frame)
        assert payload is not None
        pcm = decoder.decode(payload)
        assert len(pcm) == len(frame)
        heard.append(pcm)
    assert correlation(source, as_samples(heard), rate // 50) > 0.9


@pytest.mark.parametrize(
    ("spec", "name", "rate"),
    [
        (CodecSpec("opus"), "opus", 48000),
        (CodecSpec("AMR-WB"), "amrwb", 16000),
        (CodecSpec("AMR"), "amrnb", 8000),
        (CodecSpec("PCMU"), "pcm_mulaw", 8000),
        (CodecSpec("PCMA"), "pcm_alaw", 8000),
        (CodecSpec("G722"), "g722", 16000),
    ],
)
def test_libavcodec_decodes_what_we_encode(
    spec: CodecSpec, name: str, rate: int, speech: Callable[..., Samples], correlation: Callable[..., float]
) -> None:
    """An independent decoder understands the streams."""
    own_rate = rate_of(spec)
    source = speech(own_rate)
    encoder = make_encoder(spec, own_rate)
    context = av.AudioCodecContext.create(name, "r")
    context.sample_rate = rate
    context.layout = "mono"
    resampler = av.AudioResampler("s16", "mono", own_rate)
    heard = []
    for frame in frames_of(source, own_rate):
        payload = encoder.encode(frame)
        assert payload is not None
        if "AMR" in spec.name:
            payload = payload_format(spec).unpack(payload)[1][0].stored()
        for decoded in context.decode(av.Packet(payload)):
            decoded.pts = None
            heard += [bytes(out.planes[0])[: 2 * out.samples] for out in resampler.resample(decoded)]
    assert correlation(source, as_samples(heard), own_rate // 50) > 0.9


def decision_values(name: str) -> list[int]:
    """Decision values of ITU-T G.711, column 5 of table 1a (A-law, of 4096) or 2a (mu-law, of 8159), in 16 bits."""
    if name == "PCMA":
        steps = [2] * 16 + [step for exponent in range(1, 8) for step in [1 << exponent] * 16]
        scale = 8
    else:
        steps = [1] + [2] * 15 + [step for exponent in range(2, 9) for step in [1 << exponent] * 16]
        scale = 4
    return [scale * int(value) for value in np.cumsum(steps)]


@pytest.mark.parametrize(("name", "lavc"), [("PCMU", "pcm_mulaw"), ("PCMA", "pcm_alaw")])
def test_g711_tables(name: str, lavc: str) -> None:
    """Encoding follows the decision values of the standard's tables; decoding equals libavcodec's."""
    assert decision_values(name)[-1] == {"PCMA": 32768, "PCMU": 4 * 8159}[name]
    context = av.AudioCodecContext.create(lavc, "r")
    context.sample_rate, context.layout = 8000, "mono"
    theirs = np.frombuffer(bytes(context.decode(av.Packet(bytes(range(256))))[0].planes[0])[:512], np.int16)
    table = np.frombuffer(make_decoder(CodecSpec(name), 8000).decode(bytes(range(256))), np.int16)
    assert (table == theirs).all()
    samples = np.arange(32640).astype(np.int16)
    encoder = make_encoder(CodecSpec(name), 8000)
    codes = np.frombuffer(b"".join([encoder.encode(frame) or b"" for frame in frames_of(samples, 8000)]), np.uint8)
    interval = np.minimum(np.searchsorted(decision_values(name), samples, side="right"), 127)
    assert (codes == (interval | 0x80) ^ 0x55 if name == "PCMA" else codes == 0xFF - interval).all()
    negative = np.frombuffer(b"".join([encoder.encode(f) or b"" for f in frames_of(-samples - 1, 8000)]), np.uint8)
    # A-law is symmetric about -0.5 of its 13-bit step, mu-law about 0: a sample further from 0 decides there.
    mirrored = codes if name == "PCMA" else np.append(codes[1:], codes[-1:])
    assert (negative == mirrored ^ 0x80).all()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_concealment_bridges_one_frame_and_fades(spec: CodecSpec, speech: Callable[..., Samples]) -> None:
    rate = rate_of(spec)
    encoder, decoder = make_encoder(spec, rate), make_decoder(spec, rate)
    level = 0.0
    for frame in frames_of(speech(rate, 0.5), rate):
        payload = encoder.encode(frame)
        assert payload is not None
        level = float(np.frombuffer(decoder.decode(payload), np.int16).astype(float).std())
    concealed = [np.frombuffer(decoder.conceal(), np.int16).astype(float) for _ in range(25)]
    assert all(len(frame) == rate // 50 for frame in concealed)
    assert concealed[0].std() > level / 4
    assert concealed[-1].std() < level / 5


def test_opus_repairs_a_loss_from_the_next_packet(speech: Callable[..., Samples]) -> None:
    """In-band FEC gives back far more of a lost frame than extrapolation does."""
    encoder = make_encoder(CodecSpec("opus", fec=10), 16000)
    payloads = [encoder.encode(frame) or b"" for frame in frames_of(speech(16000, 3.0), 16000)]
    reference = make_decoder(CodecSpec("opus"), 16000)
    whole = [np.frombuffer(reference.decode(payload), np.int16).astype(float) for payload in payloads]
    error: dict[bool, float] = {}
    for with_fec in (True, False):
        decoder = make_decoder(CodecSpec("opus"), 16000)
        errors = []
        for index, payload in enumerate(payloads[:-1]):
            if index % 7 != 3:
                decoder.decode(payload)
                continue
            given = decoder.conceal(payloads[index + 1] if with_fec else None)
            difference = np.frombuffer(given, np.int16) - whole[index]
            errors.append(float(np.sum(difference**2) / np.sum(whole[index] ** 2)))
        error[with_fec] = float(np.median(errors))
    assert error[True] < error[False] / 2


@pytest.mark.parametrize("name", ["AMR", "AMR-WB"])
def test_amr_dtx_and_comfort_noise(name: str, speech: Callable[..., Samples]) -> None:
    """An encoder with DTX sends SID about every eighth frame; the decoder makes noise of the same level."""
    spec = CodecSpec(name, dtx=True)
    rate = rate_of(spec)
    encoder, decoder = make_encoder(spec, rate), make_decoder(spec, rate)
    noise = np.random.default_rng(3).normal(0, 30, 3 * rate).astype(np.int16)
    sent = silent = 0
    heard: list[float] = []
    for index, frame in enumerate(frames_of(np.concatenate([speech(rate, 0.4), noise]), rate)):
        payload = encoder.encode(frame)
        if payload is None:
            silent += 1
            pcm = decoder.conceal()
        else:
            sent += index >= 60
            pcm = decoder.decode(payload)
        if index >= 60:
            assert decoder.in_silence
            heard.append(float(np.frombuffer(pcm, np.int16).astype(float).std()))
    assert 10 <= sent <= 20 and silent > 80
    assert 8 < np.mean(heard) < 60
    payload = AmrEncoder(CodecSpec(name)).encode(speech(rate, 0.02).tobytes())
    assert payload is not None
    decoder.decode(payload)
    assert not decoder.in_silence


def test_opus_dtx_sends_nothing_in_silence() -> None:
    encoder = make_encoder(CodecSpec("opus", dtx=True), 16000)
    silence = bytes(640)
    assert [encoder.encode(silence) for _ in range(60)].count(None) > 30


def test_mode_request_is_followed_within_the_mode_set() -> None:
    """RFC 4867 4.3.1: at once, from one neighbour to the next, or every second frame only, as negotiated."""
    silence = bytes(640)

    def modes(spec: CodecSpec, requests: dict[int, int]) -> list[int]:
        encoder = make_encoder(spec, 16000)
        found = []
        for index in range(8):
            if index in requests:
                encoder.request_mode(requests[index])
            payload = encoder.encode(silence)
            assert payload is not None
            found.append(payload_format(spec).unpack(payload)[1][0].frame_type)
        return found

    assert modes(CodecSpec("AMR-WB"), {2: 8}) == [2, 2, 8, 8, 8, 8, 8, 8]
    assert modes(CodecSpec("AMR-WB", mode_set=(0, 1, 2)), {1: 8, 3: 0}) == [2, 2, 2, 0, 0, 0, 0, 0]
    assert modes(CodecSpec("AMR-WB", mode_set=(4, 8)), {}) == [4] * 8
    assert modes(CodecSpec("AMR-WB", mode_change_neighbor=True), {1: 0}) == [2, 1, 0, 0, 0, 0, 0, 0]
    assert modes(CodecSpec("AMR-WB", mode_change_period=2), {1: 0}) == [2, 2, 0, 0, 0, 0, 0, 0]


def test_decoder_reports_the_request_of_the_peer() -> None:
    form = AmrPayloadFormat(wideband=True, octet_aligned=False)
    decoder = make_decoder(CodecSpec("AMR-WB"), 16000)
    assert decoder.requested_mode is None
    decoder.decode(form.pack([AmrFrame(15)], cmr=1))
    assert decoder.requested_mode == 1
    decoder.decode(form.pack([AmrFrame(15)]))
    assert decoder.requested_mode == 1


def test_several_frames_in_one_payload(speech: Callable[..., Samples]) -> None:
    spec = CodecSpec("AMR-WB")
    encoder, form = make_encoder(spec, 16000), payload_format(spec)
    frames = [
        form.unpack(payload)[1][0]
        for frame in frames_of(speech(16000, 0.06), 16000)
        if (payload := encoder.encode(frame))
    ]
    assert len(make_decoder(spec, 16000).decode(form.pack(frames))) == 3 * 640


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_only_codec_error_escapes(spec: CodecSpec, speech: Callable[..., Samples]) -> None:
    """Noise, and real payloads cut at every octet, end in speech or in CodecError."""
    rate = rate_of(spec)
    decoder = make_decoder(spec, rate)
    payload = make_encoder(spec, rate).encode(speech(rate, 0.02).tobytes())
    assert payload is not None

    def survives(data: bytes) -> None:
        try:
            assert len(decoder.decode(data)) % 2 == 0
        except CodecError:
            pass

    for length in range(len(payload)):
        survives(payload[:length])

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(payload)), st.binary(max_size=200))
    def noise(kept: int, tail: bytes) -> None:
        survives(payload[:kept] + tail)

    noise()
    with pytest.raises(CodecError):
        decoder.decode(b"")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_frame_of_another_length_is_our_own_error(spec: CodecSpec) -> None:
    with pytest.raises(ValueError, match="20 ms"):
        make_encoder(spec, rate_of(spec)).encode(bytes(100))


def test_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="EVS"):
        make_decoder(CodecSpec("EVS"), 16000)


def test_a_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec_library._LIBRARIES, "opus", ("libopus-not-here.so.0", "libopus0"))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    codec_library.load.cache_clear()
    try:
        with pytest.raises(CodecUnavailableError, match="install the package libopus0"):
            codec_library.load("opus")
    finally:
        codec_library.load.cache_clear()
