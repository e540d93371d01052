"""SIPp in a network edge's place on Mw: SIP digest, and what the core believes of whom [A-REG1 A-REG2]."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imskit.secrets import Secret
from simulators.ims_core.config import CoreConfig, EdgeConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import WebSubscriberConfig

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (package sip-tester) is not installed"),
]

HOME = "ims.example"
WWSF = "wwsf.ims.example"
USER = f"bob@{HOME}"
REQUEST = """<send retrans="500"><![CDATA[
REGISTER sip:{home} SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
Max-Forwards: 70
From: <sip:{user}>;tag=[pid]SIPpTag[call_number]
To: <sip:{user}>
Call-ID: [call_id]
CSeq: {cseq} REGISTER
Contact: <sip:bob@[local_ip]:[local_port]>;expires=600
Path: <sip:token@[local_ip]:[local_port];lr>
Require: path
P-Visited-Network-ID: "{visited}"
{authorization}
Content-Length: 0

]]></send>
"""
VOUCHED = (
    f'Authorization: Digest username="{USER}", realm="{HOME}", nonce="", uri="sip:{HOME}", response="", '
    'integrity-protected="{protection}", authorization-entity="{entity}"'
)


@pytest.fixture
async def core(request: pytest.FixtureRequest) -> AsyncIterator[ImsCore]:
    users = [WebSubscriberConfig(USER, [f"sip:{USER}"], Secret("secret"), [WWSF])]
    config = CoreConfig(
        HOME,
        ["127.0.0.1:0"],
        [],
        web_subscribers=users,
        edges=[EdgeConfig("127.0.0.1", HOME)],
        digest_algorithms=["MD5"],  # SIPp 3.6 knows no other
    )
    core = ImsCore(config)
    await core.start()
    yield core
    await core.close()


async def sipp(core: ImsCore, folder: Path, steps: str, address: str = "127.0.0.1") -> int:
    scenario = folder / "scenario.xml"
    scenario.write_text(f'<?xml version="1.0" encoding="UTF-8"?><scenario name="edge">{steps}</scenario>')
    host, port = core.core
    process = await asyncio.create_subprocess_exec(
        "sipp",
        f"{host}:{port}",
        *(
            "-sf",
            str(scenario),
            "-i",
            address,
            "-m",
            "1",
            "-timeout",
            "20s",
            "-timeout_error",
            "-nostdin",
            "-auth_uri",
            HOME,
        ),
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()


def register(cseq: int = 1, authorization: str = "X-Empty: 1", visited: str = HOME) -> str:
    return REQUEST.format(home=HOME, user=USER, cseq=cseq, authorization=authorization, visited=visited)


@pytest.mark.parametrize(("password", "status"), [("secret", 200), ("wrong", 403)])
async def test_sip_digest(core: ImsCore, tmp_path: Path, password: str, status: int) -> None:
    answer = f"[authentication username={USER} password={password}]"
    steps = f'{register()}<recv response="401" auth="true"/>{register(2, answer)}<recv response="{status}"/>'
    assert await sipp(core, tmp_path, steps) == 0
    assert len(core.registrations()) == (status == 200)


@pytest.mark.parametrize(
    ("address", "visited", "entity", "status"),
    [
        ("127.0.0.1", HOME, WWSF, 200),
        ("127.0.0.2", HOME, WWSF, 403),
        ("127.0.0.1", "elsewhere.example", WWSF, 403),
        ("127.0.0.1", HOME, "evil.example", 403),
    ],
    ids=["a trusted edge", "a stranger", "another visited network", "a web server that is not on the list"],
)
async def test_who_may_say_auth_done(
    core: ImsCore, tmp_path: Path, address: str, visited: str, entity: str, status: int
) -> None:
    claims = VOUCHED.format(protection="auth-done", entity=entity)
    steps = f'{register(1, claims, visited)}<recv response="{status}"/>'
    assert await sipp(core, tmp_path, steps, address) == 0
    assert len(core.registrations()) == (status == 200)
