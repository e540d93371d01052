"""SIPp registers with HTTP Digest and with AKAv1-MD5 against our digest, transports and transactions.

SIPp (its own Milenage, MD5 and parser) is the client; the server here is an `Endpoint` with a `TransactionLayer`.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imskit.aka.challenge import AkaAlgorithm
from imskit.aka.challenge import Challenge as AkaChallenge
from imskit.aka.milenage import Milenage, derive_opc
from imskit.aka.vector import AuthenticationVector, Success
from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.engine.events import RequestReceived, SendResponse
from imskit.sip.engine.layer import TransactionLayer
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.message import Request, response_to

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (package sip-tester) is not installed"),
]

# Text, because SIPp reads octets such as "[" and NUL of a hexadecimal key as part of its scenario.
K = Secret(b"the-key-of-sipp.")
OP = Secret(b"operator.variant")
AMF = b"AM"
# With this one RES holds no NUL octet: SIPp takes RES for a C string and would hash only what is before it.
RAND = bytes.fromhex("23553cbe9637a89d218ae64dae47bf36")
REALM = "ims.mnc001.mcc001.3gppnetwork.org"
USER = f"001010000000001@{REALM}"

SCENARIO = """<?xml version="1.0" encoding="UTF-8"?>
<scenario name="register">
  <send retrans="500"><![CDATA[
REGISTER sip:{realm} SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
Max-Forwards: 70
From: <sip:{user}>;tag=[pid]SIPpTag[call_number]
To: <sip:{user}>
Call-ID: [call_id]
CSeq: 1 REGISTER
Contact: <sip:u@[local_ip]:[local_port]>
Content-Length: 0

]]></send>
  <recv response="401" auth="true"/>
  <send retrans="500"><![CDATA[
REGISTER sip:{realm} SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
Max-Forwards: 70
From: <sip:{user}>;tag=[pid]SIPpTag[call_number]
To: <sip:{user}>
Call-ID: [call_id]
CSeq: 2 REGISTER
Contact: <sip:u@[local_ip]:[local_port]>
{authentication}
Content-Length: 0

]]></send>
  <recv response="200"/>
</scenario>
"""


type Password = Secret[bytes] | Secret[str]


@dataclass
class Registrar:
    """Challenges every REGISTER that carries no answer, and judges the answers."""

    make: Callable[[], tuple[Challenge, Password]]
    """A challenge and the password that answers it."""
    credentials: list[Credentials] = field(default_factory=list)
    endpoint: Endpoint[Any, Any] | None = None
    _passwords: dict[str, Password] = field(default_factory=dict)

    def output(self, output: object) -> None:
        if isinstance(output, RequestReceived):
            assert self.endpoint is not None
            self.endpoint.handle(SendResponse(output.key, self.judge(output.request)))

    def judge(self, request: Request) -> Any:
        authorization = request.headers.get("Authorization")
        if authorization is None:
            challenge, password = self.make()
            self._passwords[challenge.nonce or ""] = password
            response = response_to(request, 401, to_tag="t")
            response.headers.add("WWW-Authenticate", challenge)
            return response
        credentials = Credentials.parse(authorization)
        self.credentials.append(credentials)
        password = self._passwords[credentials.nonce or ""]
        good = digest.verify(credentials, password, request.method, request.body)
        return response_to(request, 200 if good else 403, to_tag="t")


async def sipp(registrar: Registrar, authentication: str, transport: str, folder: Path) -> int:
    count = itertools.count(1)
    endpoint: Endpoint[Any, Any] = Endpoint(TransactionLayer(lambda n: f"{next(count):0{n}x}"), registrar.output)
    registrar.endpoint = endpoint
    host, port = await endpoint.listen("UDP" if transport == "u1" else "TCP", ("127.0.0.1", 0))
    scenario = folder / "register.xml"
    scenario.write_text(SCENARIO.format(realm=REALM, user=USER, authentication=authentication))
    process = await asyncio.create_subprocess_exec(
        "sipp",
        f"{host}:{port}",
        *("-sf", str(scenario), "-t", transport, "-i", "127.0.0.1", "-m", "3", "-r", "10", "-l", "3"),
        *("-timeout", "20s", "-timeout_error", "-nostdin"),
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await process.wait()
    finally:
        await endpoint.close()


@pytest.mark.parametrize("transport", ["u1", "t1"])
@pytest.mark.parametrize("right", [True, False])
async def test_akav1_md5(transport: str, right: bool, tmp_path: Path) -> None:
    """S7-IMS, RFC 3310: RES of SIPp's own Milenage as password."""
    milenage = Milenage(K, derive_opc(K, OP))
    algorithm = AkaAlgorithm.parse("AKAv1-MD5")
    assert algorithm is not None
    numbers = itertools.count(33)
    assert b"\0" not in milenage.f2345(RAND).res.reveal()

    def make() -> tuple[Challenge, Password]:
        vector = AuthenticationVector.generate(milenage, RAND, next(numbers), AMF)
        password = algorithm.password(Success(vector.xres, vector.ck, vector.ik)) if right else Secret(b"x")
        nonce = AkaChallenge(vector.rand, vector.autn).encode()
        return Challenge.digest(REALM, nonce, algorithm="AKAv1-MD5"), password

    registrar = Registrar(make)
    keys = f"aka_OP={OP.reveal().decode()} aka_K={K.reveal().decode()} aka_AMF={AMF.decode()}"
    authentication = f"[authentication username={USER} {keys}]"
    status = await sipp(registrar, authentication, transport, tmp_path)
    assert (status == 0) is right
    assert registrar.credentials
    for credentials in registrar.credentials:
        assert credentials.algorithm == "AKAv1-MD5" and credentials.nc == 1 and credentials.username == USER


@pytest.mark.parametrize(("algorithm", "qop"), [("MD5", "auth"), ("MD5", "auth-int")])
async def test_plain_digest(algorithm: str, qop: str, tmp_path: Path) -> None:
    """SIPp 3.6 knows MD5 only."""
    nonces = itertools.count(1)
    registrar = Registrar(
        lambda: (Challenge.digest(REALM, f"nonce{next(nonces)}", algorithm=algorithm, qop=(qop,)), Secret("secret"))
    )
    assert await sipp(registrar, f"[authentication username={USER} password=secret]", "u1", tmp_path) == 0
    assert {credentials.qop for credentials in registrar.credentials} == {qop}
