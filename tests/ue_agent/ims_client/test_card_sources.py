"""The IMS client with a card in a modem and with a software card, chosen by the string of ``[card] reader``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.ims.registration import State
from simulators.modem.engine.modem import Modem, Quirk
from simulators.modem.io.port import ModemPort
from ue_agent.uicc.spec import open_backend, parse_spec

type At = Callable[[Any], str]
K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"


@pytest.fixture(autouse=True)
def _notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize("quirks", [set(), {Quirk.NO_CCHO, Quirk.KEEPS_ECHO, Quirk.CHATTERS}], ids=["CGLA", "CSIM"])
async def test_registered_with_the_sim_card_of_a_modem(lab: Any, address: At, quirks: set[Quirk]) -> None:
    """S7-UICC, S7-IMS: it registers, notices the card's removal, and registers again when it is back."""
    core = await lab.core()
    async with ModemPort(Modem(quirks=quirks)) as port:
        lab.backend = open_backend(parse_spec(f"modem:{port.device}"))
        client = await lab.start(address(core), insert=False)
        port.insert(lab.card())
        await lab.registered()
        assert client.card_state == "SIM card with ISIM in use"
        port.remove()
        await lab.says("SIM card was removed")
        port.insert(lab.card())
        await lab.registered()
        await client.stop()
        await lab.uicc.close()
        assert port.modem.sessions == {}
    assert core.registrations() == []


async def test_the_modem_is_unplugged(lab: Any, address: At, tmp_path: Path) -> None:
    core = await lab.core()
    link = tmp_path / "modem"
    async with ModemPort(Modem(lab.card())) as port:
        link.symlink_to(port.device)
        lab.backend = open_backend(parse_spec(f"modem:{link}"))
        await lab.start(address(core), insert=False)
        await lab.registered()
        port.unplug()
        link.unlink()
        await lab.says("SIM card was removed")
        port.plug()
        link.symlink_to(port.device)
        await lab.registered()


async def test_registered_with_a_software_card_and_the_status_says_so(lab: Any, address: At, tmp_path: Path) -> None:
    core = await lab.core()
    file = tmp_path / "card.toml"
    file.write_text(
        f'imsi = "001010000000100"\nk = "{K}"\nopc = "{OPC}"\n[isim]\n'
        'impi = "001010000000000100@ims.mnc001.mcc001.3gppnetwork.org"\n'
        'domain = "ims.mnc001.mcc001.3gppnetwork.org"\n'
        'impu = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org"]\n'
    )
    file.chmod(0o600)
    lab.backend = open_backend(parse_spec(f"software:{file}"))
    client = await lab.start(address(core), insert=False)
    await lab.registered()
    assert client.card_state == "SOFTWARE CARD (laboratory only) with ISIM in use"
    await client.stop()
    assert client.status.state is State.OFF
