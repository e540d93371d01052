"""The whole edge in one process, from its file to the core: log-in, token, REGISTER, status, end [A-WWSF, A-REG2]."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Origin, Subprotocol

from imskit.config.model import ConfigError, sample
from imskit.secrets import Secret
from network_edge.config import EdgeConfig, load_edge
from network_edge.edge import Edge, EdgeError
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.model import Account, identities
from network_edge.wwsf.identities.sql import SqlStore

HOME = "ims.example"
ALICE = f"sip:alice@{HOME}"
PASSWORD = "correct horse"


def write(folder: Path, core: str, more: str = "") -> Path:
    path = folder / "edge.toml"
    path.write_text(
        f'home_domain = "{HOME}"\ncore = "{core}"\nweb_address = "127.0.0.1"\nims_address = "127.0.0.1"\n{more}'
    )
    return path


PORTS = (
    "[wwsf]\nport = 0\npublic_port = 443\n[ep_cscf]\nwss = ['127.0.0.1:0']\nhttp_port = 0\n"
    "[ep_cscf.mw]\naddress = '127.0.0.1:0'\n"
)


def test_four_settings_are_enough(tmp_path: Path) -> None:
    config = load_edge(write(tmp_path, "10.45.0.1:5062"))
    wwsf, ep_cscf, agw = config.parts
    assert config.page == "https://127.0.0.1:8443" and config.names == ["127.0.0.1"]
    assert wwsf.websocket == "wss://127.0.0.1:8444" and ep_cscf.origins == ["https://127.0.0.1:8443"]
    assert ep_cscf.mw.place == ("127.0.0.1", 5060) and ep_cscf.mw.core == "10.45.0.1:5062"
    assert wwsf.certificate == ep_cscf.certificate == tmp_path / "edge-state/edge.crt"
    assert agw is not None and agw.web.address == agw.ims.address == "127.0.0.1" and config.own_gateway
    assert config.web_server_identity == f"wwsf.{HOME}" and config.identities == [f"sip:*@{HOME}", "tel:*"]


def test_a_name_and_standard_ports(tmp_path: Path) -> None:
    more = 'host = "Phone.Example"\n[wwsf]\nport = 443\n[ep_cscf]\nwss = ["127.0.0.1:9443"]\n'
    config = load_edge(write(tmp_path, "core.ims.example", more))
    assert config.page == "https://phone.example" and config.parts[1].origins == ["https://phone.example"]
    assert config.parts[0].websocket == "wss://Phone.Example:9443"


@pytest.mark.parametrize(
    "more,says",
    [
        ("typo = 1", r"edge.toml:5: typo: unknown key"),
        ('[wwsf]\npro = "x"', r"wwsf\.pro: unknown key"),
        ("wwsf = 3", "wwsf: must be a table"),
        ('[ep_cscf]\norigins = ["https://x/"]', "ep_cscf.*no origin"),
        ('[ep_cscf.mw]\naddress = "nowhere"', "ep_cscf.mw.*nowhere"),
        ("[eims_agw.web]\nport_min = 5", "port_min"),
        ("home_domain = 3", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_edge(write(tmp_path, "10.45.0.1:5062", more))


def test_the_parts_of_one_process_tell_of_calls_in_one_file(tmp_path: Path) -> None:
    _, ep_cscf, agw = load_edge(write(tmp_path, "10.45.0.1:5062", '[ep_cscf]\nevents = "calls.jsonl"')).parts
    assert agw is not None and agw.events == ep_cscf.events and agw.events is not None


@pytest.mark.parametrize("name", ["home_domain", "core", "web_address", "ims_address"])
def test_each_of_the_four_is_needed(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "10.45.0.1:5062")
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(name)))
    with pytest.raises(ConfigError, match=name):
        load_edge(path)


def test_the_sample_is_valid_once_the_four_are_filled_in(tmp_path: Path) -> None:
    text = sample(EdgeConfig)
    for name, value in (("home_domain", HOME), ("core", "x.example")):
        text = text.replace(f'\n{name} = ""', f'\n{name} = "{value}"', 1)
    for name in ("web_address", "ims_address"):
        text = text.replace(f'\n{name} = ""', f'\n{name} = "127.0.0.1"', 1)
    path = tmp_path / "edge.toml"
    path.write_text(text)
    assert load_edge(path).page == "https://127.0.0.1:8443"
    assert "[[ep_cscf.gateways]]" in text and "[[wwsf.identities.ranges]]" in text


def test_other_gateways_take_the_place_of_the_own_one(tmp_path: Path) -> None:
    path = write(tmp_path, "10.45.0.1:5062", '[[ep_cscf.gateways]]\nname = "one"\naddress = "127.0.0.1:2223"\n')
    config = load_edge(path)
    assert not config.own_gateway and config.parts[2] is None
    path = write(
        tmp_path, "10.45.0.1:5062", '[[ep_cscf.gateways]]\nname = "one"\naddress = "127.0.0.1:2223"\n[eims_agw]\n'
    )
    with pytest.raises(ConfigError, match="exclude each other"):
        load_edge(path)


@pytest.fixture
async def edge(tmp_path: Path, core: Any) -> AsyncIterator[Edge]:
    config = load_edge(write(tmp_path, core.address, PORTS))
    running = Edge(config)
    await running.start()
    database = Database(Secret(f"sqlite:///{tmp_path}/edge-state/wwsf.db"))
    account = Account("alice", identities(f"alice@{HOME}", [ALICE]))
    await SqlStore(database).add([(account, Secret(PASSWORD))])
    await database.close()
    yield running
    await running.close()


async def test_from_log_in_to_registration(edge: Edge, core: Any, make_phone: Any, tmp_path: Path) -> None:
    """Password, session, token, REGISTER over WSS; the core hears of a trusted WWSF; log-out ends the token."""
    trust = ssl.create_default_context(cafile=tmp_path / "edge-state/edge.crt")
    base = f"https://127.0.0.1:{edge.wwsf.port}"
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), cookie_jar=jar) as http:
        body = {"name": "alice", "password": PASSWORD}
        async with http.post(f"{base}/api/login", json=body, headers={"Origin": "https://127.0.0.1"}) as response:
            assert response.status == 200
        async with http.get(f"{base}/api/session") as response:
            session = (await response.json())["sip"]
            policy = response.headers["Content-Security-Policy"]
        async with http.get(f"{base}/api/turn") as response:
            assert (await response.json())["uris"] == []
        assert session["uri"] == ALICE and session["registration"]["method"] == "token"
        assert f"connect-src 'self' {session['websocket']}" in policy
        token = session["registration"]["token"]
        assert edge.ep_cscf is not None
        host, port = edge.ep_cscf.wss[0]
        async with connect(
            f"wss://{host}:{port}/", ssl=trust, origin=Origin("https://127.0.0.1"), subprotocols=[Subprotocol("sip")]
        ) as connection:
            phone = make_phone(connection)
            await phone.register(f"Authorization: Bearer {token}")
            request = await core.request("REGISTER")
            said = request.headers.get("Authorization") or ""
            assert f'username="alice@{HOME}"' in said and 'integrity-protected="auth-done"' in said
            assert f'authorization-entity="wwsf.{HOME}"' in said
            assert token not in request.encode().decode()
            core.register(request, ALICE)
            assert (await phone.response()).status == 200
            found = edge.status()
            assert (found["registrations"], found["log_ins"], found["problem"]) == (1, 1, "")
            async with http.post(f"{base}/api/logout", headers={"Origin": "https://127.0.0.1"}) as response:
                assert response.status == 200
            await phone.register(f"Authorization: Bearer {token}")
            assert (await phone.response()).status == 401


async def test_secrets_are_for_the_owner_only_and_stay(edge: Edge, tmp_path: Path) -> None:
    state = tmp_path / "edge-state"
    for name in ("edge.key", "token-keys.json", "wwsf.db", "edge.sock"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    before = (state / "edge.crt").read_bytes()
    Edge(load_edge(tmp_path / "edge.toml"))  # a second start makes nothing anew
    assert (state / "edge.crt").read_bytes() == before


async def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    path = write(tmp_path, "127.0.0.1:5", PORTS.replace("'127.0.0.1:0'\n", "'192.0.2.77:0'\n"))
    running = Edge(load_edge(path))
    with pytest.raises(EdgeError, match="no address of this machine"):
        await running.start()


@contextlib.asynccontextmanager
async def program(path: Path, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imsbridge", "edge", *command, "-c", str(path),
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_program_runs_shows_its_status_and_ends(tmp_path: Path, core: Any) -> None:
    path = write(tmp_path, core.address, PORTS)
    async with program(path, "check") as checked:
        said, _ = await checked.communicate()
        assert checked.returncode == 0 and b"self-signed, made at first start" in said
    assert not (tmp_path / "edge-state").exists()
    async with program(path, "status") as early:
        assert b"no edge answers" in (await early.communicate())[1] and early.returncode == 1
    async with program(path, "run") as running:
        assert running.stderr is not None
        async with asyncio.timeout(60):
            while not (line := await running.stderr.readline()).startswith(b"ready: edge https://127.0.0.1"):
                assert line, "it ended"
        async with program(path, "status", "--json") as asked:
            found = json.loads((await asked.communicate())[0])
            assert asked.returncode == 0 and found["gateways"] == {"own": "up"}
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await running.wait() == 0
    assert not (tmp_path / "edge-state/edge.sock").exists()


async def test_a_wrong_file_is_exit_code_2(tmp_path: Path) -> None:
    path = write(tmp_path, "10.45.0.1:5062", "typo = 1")
    for command in ("run", "check", "status"):
        async with program(path, command) as process:
            assert b"edge.toml:5: typo" in (await process.communicate())[1] and process.returncode == 2
