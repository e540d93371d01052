"""A real Chromium, whose only preparation is a policy file, in front of the WWPF and a real portal with its HSS.

Requirements S7-BROWSER, S7-WWPF, S7-AUTH, S7-SIF.
"""

from __future__ import annotations

import base64
import json
import sys
import wave
from pathlib import Path

import pytest

from simulators.lab.browser import Browser
from simulators.lab.lab import OPERATOR_DNS, OTHER_URL, POLICY_FILE, PORTAL_URL, Lab

pytestmark = pytest.mark.e2e

SOCKET = """new Promise(done => {
  const socket = new WebSocket("wss://ws.ims.example/sip", "sip");
  socket.onopen = () => socket.send("hello");
  socket.onmessage = event => done(event.data);
  socket.onerror = () => done("refused");
})"""


async def test_a_policy_file_is_all_that_the_browser_needs(root: Path) -> None:
    folder = root / "web-proxy"
    folder.mkdir()
    silence = folder / "silence.wav"
    with wave.open(str(silence), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(bytes(96_000))
    lab = Lab(root)
    try:
        await lab.start_operator()
        handset = lab.net.handset
        handset.write("/etc/resolv.conf", f"nameserver {OPERATOR_DNS}\n")
        program = Path(__file__).with_name("web_proxy_host.py")
        argv = [sys.executable, str(program), str(folder), str(lab.operator_ca.root)]
        proxy = await handset.start("web-proxy", argv, ready="ready: web proxy")
        policy = json.loads((folder / "policy.json").read_text())
        policy["CACertificates"].append(base64.b64encode(lab.web_ca.der).decode())
        handset.write(POLICY_FILE, json.dumps(policy))
        async with Browser(handset, silence) as browser:
            page = await browser.new_page()
            answer = await page.goto(PORTAL_URL)
            assert answer is not None
            assert answer.status == 200
            security = await answer.security_details()
            assert (security or {})["issuer"].startswith("imsbridge on this device")
            session = await page.evaluate("fetch('/api/session').then(answer => answer.json())")
            assert session["sip"]["uri"].startswith("sip:+15550100@")
            assert await page.evaluate(SOCKET) == "SIF: hello"
            await page.evaluate("fetch('/api/turn').then(answer => answer.json())")
            assert "turn credential for 3600 s" in proxy.tail(200)
            other = await browser.new_page()
            answer = await other.goto(OTHER_URL)
            assert answer is not None
            assert ((await answer.security_details()) or {})["issuer"] == "Lab web"
            assert await other.evaluate(SOCKET) == "refused"
            answer = await page.goto(PORTAL_URL.replace("https", "http"))
            assert answer is not None
            assert answer.url == PORTAL_URL
            await lab.stop_one("wwsf")
            answer = await page.goto(PORTAL_URL)
            assert answer is not None
            assert answer.status == 502
            assert "cannot be reached" in await page.inner_text("body")
        log = proxy.log.read_text()
    finally:
        await lab.stop()
    for secret in ("imsbridge-handover", "response=", "autn", session["sip"]["uri"]):
        assert secret not in log.lower()
