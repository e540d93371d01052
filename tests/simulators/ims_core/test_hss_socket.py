"""The HSS's socket, asked by the operator's web server's own client [S7-AUTH]."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnArray
from imskit.aka.vector import MacFailure, Success, SyncFailure, Usim
from imskit.secrets import Identity, Secret
from imskit.sockets import unix_socket
from network_edge.wwsf.home_network import HomeNetworkError, HssClient
from simulators.ims_core import hss_socket
from simulators.ims_core.subscribers import Hss, SubscriberConfig

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
IMPI = Identity("001010000000001@ims.example")


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    config = SubscriberConfig(
        IMPI, ["sip:+15550100@ims.example", "tel:+15550100"], k=Secret(K), opc=Secret(OPC), display="+1 555 0100"
    )
    path = tmp_path / "hss.sock"
    async with unix_socket(hss_socket.application(Hss([config], secrets.token_bytes)), path):
        yield path


def card(accepted: tuple[int, ...] = ()) -> Usim:
    return Usim(Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC))), SqnArray(accepted))


async def test_vector_profile_and_resynchronisation(path: Path) -> None:
    client = HssClient(path)
    vector = await client.vector(IMPI)
    answer = card().verify(vector.rand, vector.autn)
    assert isinstance(answer, Success)
    assert answer.res == vector.xres
    assert answer.ck == vector.ck

    ahead = card(tuple((1 << 20) + index for index in range(32)))
    vector = await client.vector(IMPI)
    answer = ahead.verify(vector.rand, vector.autn)
    assert isinstance(answer, SyncFailure)
    vector = await client.vector(IMPI, (vector.rand, answer.auts))
    assert isinstance(ahead.verify(vector.rand, vector.autn), Success)

    profile = await client.profile(IMPI)
    assert profile.impus == ("sip:+15550100@ims.example", "tel:+15550100")
    assert profile.display == "+1 555 0100"
    await client.close()


async def test_refusals(path: Path) -> None:
    client = HssClient(path)
    with pytest.raises(HomeNetworkError) as caught:
        await client.vector(Identity("nobody@ims.example"))
    assert caught.value.unknown
    with pytest.raises(HomeNetworkError) as caught:
        await client.profile(Identity("nobody@ims.example"))
    assert caught.value.unknown
    with pytest.raises(HomeNetworkError, match="403"):
        await client.vector(IMPI, (bytes(16), bytes(14)))
    with pytest.raises(HomeNetworkError, match="403"):
        await client.vector(IMPI, (bytes(3), bytes(14)))
    vector = await client.vector(IMPI)
    other = Usim(Milenage(Secret(bytes(16)), Secret(bytes(16))), SqnArray())
    assert isinstance(other.verify(vector.rand, vector.autn), MacFailure)
    await client.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 60000,
        b'{"impi": 7}',
        b'{"impi": "x", "resync": 3}',
        b'{"impi": "x", "resync": {"rand": "0"}}',
    ],
)
async def test_nonsense_is_answered_400(path: Path, body: bytes) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
        headers = {"Content-Type": "application/json"}
        async with http.post("http://hss/vector", data=body, headers=headers) as answer:
            told: Any = await answer.json()
            assert answer.status == 400
            assert told["error"]
