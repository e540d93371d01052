"""X-COMPARE against systems that somebody else runs: the command on a device, its report, and what it cannot know."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from simulators.lab.host import Host
from simulators.lab.lab import LAPTOP_PASSWORD, LAPTOP_USER, PHONE_NUMBER, PORTAL_URL, Lab
from simulators.lab.speech import make_speech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

EDGE = f"""
name = "someone's edge"
number = "{PHONE_NUMBER}"
phone = "PHONE"
[edge]
portal = "{PORTAL_URL}"
user = "{LAPTOP_USER}"
password = "{LAPTOP_PASSWORD}"
[[edge.points]]
point = "W3"
address = "203.0.113.12"
protocols = ["udp"]
[edge.elements]
edge = "edge run -c"
"""
UE = f"""
name = "someone's handset"
number = "{PHONE_NUMBER}"
[ue]
portal = "{PORTAL_URL}"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(root: Path) -> Any:
    lab = Lab(root)
    try:
        speech = make_speech(root)
        await lab.start(play=speech["phone"], record=root / "phone-heard.wav")
        await lab.start_edge()
        await lab.registered()
        yield lab
    finally:
        await lab.stop()


async def compared(host: Host, root: Path, config: str, *more: str) -> tuple[dict[str, Any], str]:
    """Run the command on a device; its measurements, and what it printed."""
    file, measured = root / f"{host.name}.toml", root / f"{host.name}.json"
    file.write_text(config.replace("PHONE", str(root / "phone.toml")))
    file.chmod(0o600)
    argv = [sys.executable, "-m", "imsbridge", "compare", "--against", str(file), "--calls", "1"]
    process = await host.start("compare", [*argv, "--json", str(measured), *more])
    code = await asyncio.wait_for(process.process.wait(), 240)
    assert code == 0, process.tail(60)
    return json.loads(measured.read_text()), process.tail(200)


async def test_from_a_laptop_with_a_phone_that_tells(system: Lab, root: Path) -> None:
    report, printed = await compared(system.net.laptop, root, EDGE)
    assert report["conditions"]["system"] == "someone's edge"
    assert report["paths"] == ["edge"]
    (call,) = report["calls"]
    assert all("evenly" in reason for reason in call["reasons"].values()), call["reasons"]
    assert call["points"]["W3"]["packets"] > 1000
    assert set(call["elements"]) == {"browser", "edge"}
    assert 0 < (call["values"]["delay_to_phone_ms"] or 1) < 1000
    assert "every call was made and measured" in printed
    assert LAPTOP_PASSWORD not in printed


async def test_from_a_handset_to_a_stranger(system: Lab, root: Path) -> None:
    report, printed = await compared(system.net.handset, root, UE, "--html", str(root / "report.html"))
    (call,) = report["calls"]
    for key in ("page_load_ms", "registration_ms", "post_dial_delay_ms", "dtls_ms", "first_to_browser_ms"):
        assert call["values"][key] is not None
    assert call["values"]["pesq_to_phone"] is None
    assert "only a phone of this release" in call["reasons"]["pesq_to_phone"]
    assert "only a phone of this release" in printed
    assert "someone&#x27;s handset" in (root / "report.html").read_text()
