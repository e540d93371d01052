"""Runs of AKA: right answers pass, wrong ones are noticed, times add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.aka.sqn import join
from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from ue_agent.card_bench.aka_runs import CASES, AkaBench, Stopwatch, percentile
from ue_agent.card_bench.lab_hss import LabHss, LabKeys
from ue_agent.card_bench.observe import Exchange, ObservedTransport
from ue_agent.uicc.application import UiccSession
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.pin import Pin

K = Secret("465b5ce8b199b49faa5f0a2ee238a6bc")
OPC = Secret("cd63cb71954a9f4e48a5994e37a02baf")
TUAK = {"algorithm": "tuak", "opc": Secret("ab" * 32)}
RESPONSE = slice(2, 10)


class Altered:
    """A card whose answers to AUTHENTICATE are changed."""

    def __init__(self, card: Uicc, change: Callable[[bytes, bytes], bytes]) -> None:
        self.card = card
        self.change = change
        self._authenticates = False

    def reset(self) -> None:
        self.card.reset()

    def transmit(self, apdu: bytes) -> bytes:
        self._authenticates = apdu[1] == 0x88 or (self._authenticates and apdu[1] == 0xC0)
        answer = self.card.transmit(apdu)
        return self.change(apdu, answer) if self._authenticates else answer


def bench(card: Any, **keys: Any) -> AkaBench:
    watch = Stopwatch()
    session = UiccSession(ObservedTransport(InProcessReader(card).connect(), watch), Pin())
    return AkaBench(session, "USIM", watch, LabHss(LabKeys(**{"k": K, "opc": OPC, **keys})))


def card(**fields: Any) -> Uicc:
    return Uicc(CardProfile(**{"imsi": "001010000000001", "k": K, "opc": OPC, **fields}))


@pytest.mark.parametrize("keys", [{}, TUAK], ids=["Milenage", "TUAK"])
def test_a_card_that_does_as_it_should(keys: dict[str, Any]) -> None:
    """X-CARDLAB: success, resync, wrong MAC; a card that is ahead is followed."""
    tried = bench(card(sqn=[join(5000, 9)], **keys), **keys)
    assert tried.synchronise() is None
    runs = {case: tried.run(case) for case in CASES}
    assert all(run.ok for run in runs.values()), [run.text for run in runs.values()]
    auts, sent = runs["resync"].auts, runs["resync"].autn_parts
    assert auts is not None and sent is not None
    assert (auts.seq, auts.ind) == (sent.seq, sent.ind) == (5002, 11), "its entry for IND 1 was never used"
    assert runs["success"].timing.total >= runs["success"].timing.card >= runs["success"].timing.authenticate > 0
    assert tried.run("success").ok, "after a forged MAC"


def test_a_wrong_key_is_noticed() -> None:
    failed = bench(card(), opc=K).synchronise()
    assert failed is not None and not failed.ok
    assert failed.text == "9862: incorrect MAC (is the key right?)"


def test_wrong_answers_are_noticed() -> None:
    def flip(apdu: bytes, answer: bytes) -> bytes:
        return answer[:3] + bytes([answer[3] ^ 1]) + answer[4:] if apdu[1] == 0xC0 else answer

    wrong = bench(Altered(card(), flip))
    assert wrong.run("success").text == "RES, CK or IK differ from the network's"
    assert wrong.run("resync").text == "AUTS with a wrong MAC-S"


def test_a_card_that_takes_anything() -> None:
    keys = bytes.fromhex("DB08" + "11" * 8 + "10" + "22" * 16 + "10" + "33" * 16 + "9000")
    careless = bench(Altered(card(), lambda _, __: keys))
    assert careless.run("resync").text == "a used sequence number was not refused: success"
    assert careless.run("mac").text == "a forged MAC was not refused: success"


def test_a_card_that_never_comes_together() -> None:
    ahead = bench(card(sqn=[join(1 << 42, 1)]))
    stuck = bench(Altered(card(), lambda c, a: b"\x98\x62" if c[1] == 0x88 else a))
    assert ahead.synchronise() is None
    failed = stuck.synchronise()
    assert failed is not None and not failed.ok


@pytest.mark.parametrize(("sw", "text"), [("6985", "6985: conditions"), ("9864", "9864"), ("6F00", "6F00")])
def test_refusals_are_failures_with_their_status_word(sw: str, text: str) -> None:
    run = bench(Altered(card(), lambda _, __: bytes.fromhex(sw))).run("success")
    assert not run.ok and run.result is None and run.sw == int(sw, 16)
    assert text in run.text


def test_a_challenge_from_elsewhere() -> None:
    network = LabHss(LabKeys(k=K, opc=OPC))
    vector = network.vector()
    run = bench(card()).challenge(vector.rand, vector.autn)
    assert (run.ok, run.text) == (True, "success, and RES, CK and IK are right")
    watch = Stopwatch()
    session = UiccSession(ObservedTransport(InProcessReader(card()).connect(), watch), Pin())
    unknown = AkaBench(session, "USIM", watch)
    assert unknown.challenge(vector.rand, vector.autn).text == "success"
    again = unknown.challenge(vector.rand, vector.autn)
    assert (again.ok, again.text, again.auts) == (False, "synchronisation failure: AUTS", None)
    with pytest.raises(ValueError, match="without the card's key"):
        unknown.run("success")


def test_stopwatch() -> None:
    watch = Stopwatch()
    for command, seconds in (("00A40000", 1.0), ("00880081", 2.0), ("00C00000", 4.0), ("00", 8.0)):
        watch(Exchange(0.0, seconds, bytes.fromhex(command), b"", 0x9000))
    assert (watch.card, watch.authenticate) == (15.0, 14.0)
    watch.reset()
    watch(Exchange(0.0, 1.0, bytes.fromhex("00C00000"), b"", 0x9000))
    assert (watch.card, watch.authenticate) == (1.0, 0.0)


def test_percentiles() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50.0, 90.0, 99.0, 100.0]
    assert [percentile([7.0], p) for p in (0, 50, 99)] == [7.0] * 3
