"""``imsbridge card gba``: the bench as BSF, and a BSF over Ub."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imskit.aka.vector import AuthenticationVector
from imskit.config.model import parse
from imskit.secrets import Identity, Secret
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from simulators.bsf.config import BsfConfig
from simulators.bsf.server import BsfServer
from simulators.ims_core.subscribers import Subscriber, SubscriberConfig

type Run = Callable[..., Any]

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 set 1
IMPI = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
ISIM = f'[isim]\nimpi = "{IMPI}"\ndomain = "{IMPI[16:]}"\nimpu = ["tel:+15550100"]\n'
CARD = f'imsi = "001010000000001"\nk = "{K}"\nopc = "{OPC}"\n'
GBA_U = f"gba = true\n{CARD}{ISIM}"


@pytest.fixture
def key_file(secret_file: Callable[[str, str], Path]) -> Path:
    return secret_file("keys.toml", f'k = "{K}"\nopc = "{OPC}"\n')


def test_gba_u_through_pcscd(run: Run, reader: Any, key_file: Path) -> None:
    """X-CARDLAB, S7-GBA: GBA_U (P2 84) on the card; EF_GBABP and EF_GBANL tell of it afterwards."""
    reader.insert(Uicc(parse(CardProfile, GBA_U)))
    shown = run("gba", "--keys", key_file, "--naf", "xcap.ims.example", "--json")
    found = shown.json
    assert (shown.code, found["ok"], found["kind"], found["application"]) == (0, True, "GBA_U", "ISIM")
    assert found["btid"].endswith("@bsf.mnc001.mcc001.pub.3gppnetwork.org") or "bsf." in found["btid"]
    assert "key" not in found
    after = run("info", "--json").json["applications"][1]
    assert after["gba"]["btid"] == found["btid"] and after["gba_nafs"] == ["xcap.ims.example"]


@pytest.mark.parametrize(("card", "words", "kind"), [(GBA_U, ["--mode", "me"], "GBA_ME"), (CARD, [], "GBA_ME")])
def test_gba_me(card: str, words: list[str], kind: str, run: Run, software: Any, key_file: Path) -> None:
    shown = run("gba", "--keys", key_file, "--card", software(card), *words)
    assert shown.code == 0 and f"{kind}: Ks is in the terminal" in shown.out
    assert "RES and Ks_NAF are those of the network" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_the_key_is_shown_only_when_asked_for(run: Run, software: Any, key_file: Path) -> None:
    loud = run("gba", "--keys", key_file, "--card", software(GBA_U), "--show-keys", "--json").json
    assert len(bytes.fromhex(loud["key"])) == 32


def test_a_wrong_key(run: Run, software: Any, secret_file: Callable[[str, str], Path]) -> None:
    wrong = secret_file("wrong.toml", f'k = "{OPC}"\nopc = "{K}"\n')
    shown = run("gba", "--keys", wrong, "--card", software(GBA_U))
    assert shown.code == 1 and "9862: incorrect MAC" in shown.out


class OneSubscriber:
    """The HSS of the BSF."""

    def __init__(self, *, in_card: bool) -> None:
        self._subscriber = Subscriber(
            SubscriberConfig(k=Secret(K), opc=Secret(OPC), impi=IMPI, impus=["tel:+15550100"], gba_u=in_card), 1
        )

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        if resync is not None:
            self._subscriber.resynchronise(*resync, time.time())
        return self._subscriber.vector(os.urandom(16), time.time())

    async def keeps_keys(self, impi: Identity) -> bool:
        return self._subscriber.gba_u


@pytest.fixture
def bsf() -> Iterator[Callable[..., str]]:
    """Start a BSF in a thread of its own; returns its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    servers: list[BsfServer] = []

    def start(*, in_card: bool) -> str:
        config = BsfConfig(name="localhost", hss=Path("/nowhere"), nafs=[], listen="127.0.0.1:0")
        servers.append(BsfServer(config, OneSubscriber(in_card=in_card)))
        asyncio.run_coroutine_threadsafe(servers[-1].start(), loop).result(5)
        return f"http://localhost:{servers[-1].address[1]}"

    yield start
    for server in servers:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.mark.parametrize("in_card", [True, False], ids=["GBA_U", "GBA_ME"])
def test_at_a_bsf(run: Run, software: Any, bsf: Callable[..., str], in_card: bool) -> None:
    """S7-GBA: Ub, AKAv1-MD5 with auth-int; a card whose number is ahead is followed by the BSF."""
    card = software(GBA_U.replace("gba = true", f"gba = {str(in_card).lower()}\nsqn = [2241]"))
    shown = run("gba", "--bsf", bsf(in_card=in_card), "--card", card, "--json")
    assert shown.code == 0, shown.out
    assert shown.json["kind"] == ("GBA_U" if in_card else "GBA_ME")
    assert shown.json["btid"].endswith("@localhost")


def test_no_bsf(run: Run, software: Any) -> None:
    shown = run("gba", "--bsf", "http://127.0.0.1:9", "--card", software(GBA_U))
    assert shown.code == 1 and "cannot be reached" in shown.out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "say with whom to bootstrap"),
        (["--bsf", "https://bsf.example"], "--bsf is http://HOST[:PORT]"),
        (["--bsf", "http://bsf.example:x"], "--bsf is http://HOST[:PORT]"),
        (["--bsf", "http://bsf.example/path"], "--bsf is http://HOST[:PORT]"),
    ],
)
def test_wrong_use(words: list[str], text: str, run: Run, software: Any) -> None:
    shown = run("gba", "--card", software(GBA_U), *words)
    assert (shown.code, shown.out) == (2, "") and text in shown.err


def test_no_name_of_a_server(run: Run, software: Any, key_file: Path) -> None:
    shown = run("gba", "--keys", key_file, "--card", software(GBA_U), "--naf", "no name")
    assert shown.code == 2 and "no host name" in shown.err
