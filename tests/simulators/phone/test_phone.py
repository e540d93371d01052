"""Phones call each other through the core, over real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from imskit.ims.registration import State
from imskit.observe.events import read_events
from simulators.phone.calls import Manners, PhoneError
from simulators.phone.wav import Recorder

type Read = Callable[[Path], npt.NDArray[np.int16]]


def pitch(samples: npt.NDArray[np.int16]) -> float:
    """The strongest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * 16000 / len(samples))


def bursts(samples: npt.NDArray[np.int16]) -> list[float]:
    """When the sound begins, seconds."""
    level = np.sqrt(np.mean(samples[: len(samples) // 320 * 320].astype(float).reshape(-1, 320) ** 2, axis=1))
    loud = level > 2000
    return [index * 0.02 for index in range(1, len(loud)) if loud[index] and not loud[index - 1]]


@pytest.mark.parametrize("codec", ["AMR-WB", "AMR"])
async def test_both_hear_each_other_in_time(
    network: Any, tone: Callable[..., Path], read_wav: Read, tmp_path: Path, codec: str
) -> None:
    heard = {number: tmp_path / f"heard-{number}.wav" for number in ("0100", "0200")}
    # A long play-out delay, so that a busy machine does not make the test fail; the fine points are in test_playout.
    common: dict[str, Any] = {"loop": True, "playout_delay": 0.3}
    await network.phone("0200", play=tone(700), record=heard["0200"], codecs=[codec], **common)
    caller = await network.phone("0100", play=tone(1100), record=heard["0100"], **common)
    caller.dial("+15550200")
    await network.until(lambda: "answered" in network.steps("0100"))
    await asyncio.sleep(3.3)
    caller.hang_up()
    await network.until(lambda: "ended" in network.steps("0200"))

    for number, hertz in (("0100", 700), ("0200", 1100)):
        samples = read_wav(heard[number])
        assert len(samples) > 3 * 16000
        begun = bursts(samples)
        assert begun[0] == pytest.approx(0.5 + 0.3, abs=0.15)
        # Bursts come a second apart: silence is kept, and nothing is stretched.
        assert np.diff(begun) == pytest.approx(1.0, abs=0.041)
        middle = samples[int((begun[0] + 0.1) * 16000) :][:4800]
        assert pitch(middle) == pytest.approx(hertz, abs=5)
        ended = network.events(number)[-1]
        assert ended["codec"] == codec
        assert ended["packets_lost"] == 0
        assert ended["packets_received"] > 140
        assert ended["packets_sent"] > 140
        assert {"first-rtp-received", "first-rtp-sent"} <= set(network.steps(number))
        assert 290 <= ended["playout_delay_ms"] <= 450
    assert network.steps("0200")[:4] == ["registered", "incoming", "ringing", "answered"]
    core = [(event["event"], event.get("subscriber")) for event in read_events(network.core_events)]
    assert core[:4] == [("register-401", 2), ("registered", 2), ("register-401", 1), ("registered", 1)]
    assert [name for name, _ in core[4:]] == ["invite", "183", "180", "200", "bye"]
    assert not any(word in network.core_events.read_text() for word in ("+1555", "0010100000", "sip:"))


async def test_resources_take_their_time(network: Any) -> None:
    await network.phone("0200", reservation=0.4)
    caller = await network.phone("0100", reservation=0.2)
    caller.dial("+15550200")
    await network.until(lambda: "answered" in network.steps("0100"))
    at = {event["event"]: event["at"] for event in network.events("0200")}
    assert at["ringing"] - at["incoming"] >= 0.4


@pytest.mark.parametrize(("behaviour", "status"), [("busy", 486), ("decline", 603)])
async def test_the_callee_refuses(network: Any, behaviour: str, status: int) -> None:
    await network.phone("0200", behaviour=behaviour)
    caller = await network.phone("0100")
    caller.dial("+15550200")
    await network.until(lambda: caller.last)
    assert caller.last["status"] == status


async def test_the_callee_does_not_answer_and_the_caller_gives_up(network: Any) -> None:
    callee = await network.phone("0200", behaviour="ignore", answer_after=0.0)
    caller = await network.phone("0100")
    caller.dial("+15550200")
    await network.until(lambda: "ringing" in network.steps("0200"))
    await network.until(lambda: caller.status()["call"]["state"] == "alerting")
    await asyncio.sleep(0.2)
    assert callee.status()["call"]["state"] == "ringing"
    caller.hang_up()
    await network.until(lambda: caller.last and callee.last)
    assert "gave up" in callee.last["reason"]
    assert network.events("0200")[-1]["answered"] is False


async def test_answered_by_hand_hung_up_by_the_callee(network: Any) -> None:
    callee = await network.phone("0200", behaviour="manual")
    caller = await network.phone("0100")
    with pytest.raises(PhoneError, match="no call rings"):
        callee.answer()
    with pytest.raises(PhoneError, match="no call"):
        callee.hang_up()
    caller.dial("tel:+15550200")
    with pytest.raises(PhoneError, match="a call already"):
        caller.dial("+15550200")
    await network.until(lambda: "ringing" in network.steps("0200"))
    callee.answer()
    await network.until(lambda: "answered" in network.steps("0100"))
    callee.hang_up()
    await network.until(lambda: caller.last and callee.last)
    assert caller.last["reason"].startswith("the other side hung up")


async def test_a_second_call_finds_it_busy(network: Any) -> None:
    callee = await network.phone("0200")
    first, second = await network.phone("0100"), await network.phone("0300")
    first.dial("+15550200")
    await network.until(lambda: "answered" in network.steps("0100"))
    second.dial("+15550200")
    await network.until(lambda: second.last)
    assert second.last["status"] == 486
    assert callee.status()["call"]["state"] == "answered"


async def test_behaviour_is_changed_for_the_next_call(network: Any) -> None:
    callee = await network.phone("0200")
    caller = await network.phone("0100")
    callee.behave(Manners("busy", 0.0, None, False, None))
    caller.dial("+15550200")
    await network.until(lambda: caller.last)
    assert caller.last["status"] == 486


async def test_over_tcp(network: Any) -> None:
    await network.phone("0200", transport="TCP")
    caller = await network.phone("0100", transport="TCP")
    caller.dial("+15550200")
    await network.until(lambda: "answered" in network.steps("0100"))


async def test_it_is_off_the_register_when_it_is_closed(network: Any) -> None:
    phone = await network.phone("0200")
    assert len(network.core.registrations()) == 1
    await phone.close()
    assert network.core.registrations() == []


async def test_a_number_that_is_none(network: Any) -> None:
    caller = await network.phone("0100")
    with pytest.raises(PhoneError, match="no number"):
        caller.dial("nobody\r\nVia: x")
    caller.dial("+15559999")
    await network.until(lambda: caller.last)
    assert caller.last["status"] == 404


async def test_whoever_gives_up_is_free_at_once(network: Any) -> None:
    """The callee is registered but dead: no answer to the CANCEL either."""
    callee = await network.phone("0200")
    caller = await network.phone("0100")
    await callee._endpoint.close()
    caller.dial("+15550200")
    await network.until(lambda: '"invite"' in network.core_events.read_text())
    caller.hang_up()
    assert caller.last["reason"] == "given up"
    assert caller.status()["call"] is None
    callee._state = State.OFF


async def test_a_full_disk_ends_the_recording_and_not_the_call(
    network: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: Recorder, pcm: bytes) -> None:
        raise OSError(28, "No space left on device")

    await network.phone("0200")
    caller = await network.phone("0100", record=tmp_path / "r.wav")
    monkeypatch.setattr(Recorder, "write", full)
    caller.dial("+15550200")
    await network.until(lambda: {"answered", "first-rtp-sent"} <= set(network.steps("0100")))
    assert caller.status()["call"]["state"] == "answered"
    caller.hang_up()
    await network.until(lambda: caller.last)
    assert caller.last["media"]["packets_sent"] > 0
