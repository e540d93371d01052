"""Phones write to each other, through the core and its message centre on real sockets [S7-IMS]."""

from __future__ import annotations

from typing import Any

import pytest

from simulators.phone.phone import PhoneError


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_a_message(network: Any, transport: str) -> None:
    other = await network.phone("0200", transport=transport)
    phone = await network.phone("0100", transport=transport)
    key = phone.send_message("+15550200", "Grüße")
    await network.until(lambda: key in phone.sent and other.messages)
    assert phone.sent[key] == {"status": 200, "reason": "sent"}
    assert list(other.messages) == [
        {"from": "sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org", "text": "Grüße", "sms": False}
    ]
    assert "Grüße" not in (network.folder / "0200.jsonl").read_text()


async def test_9_1_a_14_short_messages(network: Any) -> None:
    other, phone = await network.phone("0200"), await network.phone("0100")
    text = "Ein langer Text, der nicht in eine Nachricht passt. " * 6
    key = phone.send_message("+15550200", text, sms=True)
    await network.until(lambda: key in phone.sent and other.messages)
    assert phone.sent[key]["status"] == 200
    assert list(other.messages) == [{"from": "tel:+15550100", "text": text, "sms": True}]


async def test_to_nobody(network: Any) -> None:
    phone = await network.phone("0100")
    with pytest.raises(PhoneError, match="no number"):
        phone.send_message("nobody", "x")
    key = phone.send_message("+15559999", "x")
    await network.until(lambda: key in phone.sent)
    assert phone.sent[key]["status"] == 404
