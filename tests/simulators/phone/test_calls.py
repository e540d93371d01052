"""Phones hold, swap, transfer, meet in conferences and press keys: core, SIP and RTP over real sockets [S7-IMS]."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simulators.phone.calls import CallState, Manners, PhoneError

type Read = Callable[[Path], npt.NDArray[np.int16]]


async def talking(network: Any, caller: Any, number: str, callee: str) -> None:
    """Let a phone call another and wait until both talk."""
    before = network.steps(callee).count("answered")
    caller.dial(f"+1555{callee}")
    await network.until(lambda: network.steps(callee).count("answered") > before)
    await network.until(lambda: caller.calls.current.state is CallState.ANSWERED)


def directions(phone: Any) -> list[str]:
    return [call.media.agreed.direction.value for call in phone.calls._calls.values()]


def strength(samples: npt.NDArray[np.int16], hertz: int) -> float:
    """How strong a frequency is in a recording, relative to all of it."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    at = round(hertz * len(samples) / 16000)
    return float(spectrum[at - 20 : at + 21].sum() / spectrum.sum())


async def test_15_11_15_12_hold_and_resume(network: Any) -> None:
    callee = await network.phone("0200")
    caller = await network.phone("0100")
    await talking(network, caller, "0100", "0200")
    for holder, other in ((caller, callee), (callee, caller)):
        holder.calls.hold()
        await network.until(lambda other=other: directions(other) == ["recvonly"])
        await network.until(lambda holder=holder: directions(holder) == ["sendonly"])
        holder.calls.resume()
        await network.until(lambda: directions(caller) == directions(callee) == ["sendrecv"])
    with pytest.raises(PhoneError, match="no second call"):
        caller.calls.swap()


async def test_call_waiting_and_swap(network: Any) -> None:
    callee = await network.phone("0200", call_waiting=True, behaviour="manual")
    first, second = await network.phone("0100"), await network.phone("0300")
    first.dial("+15550200")
    await network.until(lambda: "ringing" in network.steps("0200"))
    callee.answer()
    await network.until(lambda: "answered" in network.steps("0100"))
    second.dial("+15550200")
    await network.until(lambda: any(e["event"] == "progress" and e["waiting"] for e in network.events("0300")))
    callee.answer()
    await network.until(lambda: "answered" in network.steps("0300"))
    await network.until(lambda: directions(first) == ["recvonly"])
    await network.until(lambda: directions(callee) == ["sendonly", "sendrecv"])
    assert directions(second) == ["sendrecv"]
    callee.calls.swap()
    await network.until(lambda: directions(callee) == ["sendrecv", "sendonly"])
    assert (directions(first), directions(second)) == (["sendrecv"], ["recvonly"])
    assert callee.calls.current.peer.startswith("sip:+15550100")
    callee.hang_up()
    await network.until(lambda: first.last)
    assert len(callee.status()["calls"]) == 1
    assert second.status()["call"]["state"] == "answered"


async def test_blind_transfer(network: Any) -> None:
    a, b, c = [await network.phone(number) for number in ("0100", "0200", "0300")]
    await talking(network, a, "0100", "0200")
    a.calls.transfer_to("tel:+15550300")
    await network.until(lambda: a.last and b.last)
    assert a.calls.transfer == {"target": "tel:+15550300", "status": 200, "final": True}
    assert [call["peer"] for call in b.status()["calls"]] == ["tel:+15550300"]
    assert c.status()["call"]["state"] == "answered"


async def test_attended_transfer(network: Any) -> None:
    a = await network.phone("0100", call_waiting=True)
    b, c = [await network.phone(number) for number in ("0200", "0300")]
    await talking(network, a, "0100", "0200")
    await talking(network, a, "0100", "0300")
    await network.until(lambda: directions(b) == ["recvonly"])
    a.calls.transfer_to("")
    await network.until(lambda: a.status()["calls"] == [] and b.last and c.last)
    assert a.calls.transfer["status"] == 200
    for phone in (b, c):
        (call,) = phone.status()["calls"]
        assert call["state"] == "answered"


async def test_a_phone_that_does_not_let_itself_be_transferred(network: Any) -> None:
    a, b = await network.phone("0100"), await network.phone("0200")
    b.behave(Manners("answer", 0.1, None, False, None, follow=False))
    await talking(network, a, "0100", "0200")
    a.calls.transfer_to("tel:+15550300")
    await network.until(lambda: a.calls.transfer["final"])
    assert a.calls.transfer["status"] == 603
    assert len(a.status()["calls"]) == len(b.status()["calls"]) == 1


async def test_15_17_to_15_19_three_party_conference_with_sound(
    network: Any, tone: Callable[..., Path], read_wav: Read, tmp_path: Path
) -> None:
    """A talks to B and C and joins all three; each hears the two others and not itself."""
    pitches = {"0100": 440, "0200": 900, "0300": 1500}
    heard = {number: tmp_path / f"heard-{number}.wav" for number in pitches}
    common: dict[str, Any] = {"loop": True, "playout_delay": 0.15}
    phones = {}
    for number, hertz in pitches.items():
        waiting = {"call_waiting": number == "0100"}
        phones[number] = await network.phone(number, play=tone(hertz), record=heard[number], **common, **waiting)
    a, b, c = phones.values()
    await talking(network, a, "0100", "0200")
    await talking(network, a, "0100", "0300")
    a.conference()
    await network.until(lambda: a.calls.current.state is CallState.ANSWERED and a.calls.current.users)
    a.calls.invite("")
    await network.until(lambda: a.calls.transfer["final"])
    a.calls.invite("")
    await network.until(lambda: a.calls.transfer["final"] and len(a.status()["calls"]) == 1)
    await network.until(lambda: len(a.calls.current.users) == 3)
    ((_, users),) = network.core.conference.conferences.items()
    assert len(users) == 3
    await asyncio.sleep(2.5)
    for phone in (b, c, a):
        phone.hang_up()
    await network.until(lambda: all(not phone.status()["calls"] for phone in phones.values()))
    for number, path in heard.items():
        samples = read_wav(path)[-2 * 16000 :].astype(np.int16)
        for other, hertz in pitches.items():
            if other == number:
                assert strength(samples, hertz) < 0.02, f"{number} hears itself"
            else:
                assert strength(samples, hertz) > 0.1, f"{number} does not hear {other}"
    await network.until(lambda: network.core.conference.conferences == {})


async def test_15_18_15_21_join_when_asked(network: Any) -> None:
    a, b = await network.phone("0100"), await network.phone("0200")
    a.conference()
    await network.until(lambda: a.calls.current.state is CallState.ANSWERED and a.calls.current.users)
    a.calls.invite("sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org", through_focus=False)
    await network.until(lambda: len(a.calls.current.users) == 2)
    await network.until(lambda: a.calls.transfer["final"])
    assert a.calls.transfer["status"] == 200
    assert b.calls.current.outgoing


@pytest.mark.parametrize(("codec", "clock"), [("AMR-WB", 16000), ("AMR", 8000)])
async def test_keys_on_the_codecs_clock(network: Any, codec: str, clock: int) -> None:
    """RFC 4733 section 2.5.1.2: telephone events share the clock of the speech beside them."""
    callee = await network.phone("0200", codecs=[codec])
    caller = await network.phone("0100")
    await talking(network, caller, "0100", "0200")
    for phone, other, keys in ((caller, callee, "159#"), (callee, caller, "*0D")):
        assert phone.calls.current.media.agreed.telephone_event.clock_rate == clock
        phone.calls.press(keys)
        await network.until(lambda other=other, keys=keys: other.calls.current.media.tones.heard == keys)
    with pytest.raises(ValueError, match="no keys"):
        caller.calls.press("x")
    caller.hang_up()
    await network.until(lambda: callee.last)
    assert callee.last["keys"] == "159#"
    assert callee.last["media"]["keys_heard"] == 4


async def test_an_anonymous_caller(network: Any) -> None:
    callee = await network.phone("0200")
    caller = await network.phone("0100")
    caller.dial("+15550200", anonymous=True)
    await network.until(lambda: "answered" in network.steps("0100"))
    assert callee.status()["call"]["peer"] == "sip:anonymous@anonymous.invalid"
