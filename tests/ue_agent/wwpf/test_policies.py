"""What an installation puts on the device.  Requirement S7-BROWSER, S7-WWPF."""

import base64
import json
import shutil
import subprocess

import pytest

from ue_agent.wwpf.config import Address, Site
from ue_agent.wwpf.policies import browser_policies, proxy_script

SCRIPT = proxy_script(Address("127.0.0.1", 8080), ["ims.example"], ["turn.ims.example"])


def test_policies() -> None:
    policies = browser_policies(
        ca_der=b"der",
        pac_url="http://127.0.0.1:8079/proxy.pac",
        portals=[Site("portal.ims.example", 443)],
        operator_domains=["ims.example"],
    )
    assert base64.b64decode(policies["CACertificates"][0]) == b"der"
    assert policies["ProxySettings"]["ProxyPacUrl"] == "http://127.0.0.1:8079/proxy.pac"
    assert policies["DnsOverHttpsMode"] == "off"
    assert policies["AudioCaptureAllowedUrls"] == ["https://portal.ims.example"]
    json.dumps(policies)


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript engine")
@pytest.mark.parametrize(
    ("host", "way"),
    [
        ("portal.ims.example", "PROXY 127.0.0.1:8080"),
        ("IMS.Example.", "PROXY 127.0.0.1:8080"),
        ("turn.ims.example", "DIRECT"),
        ("xims.example", "DIRECT"),
        ("www.other.example", "DIRECT"),
        ("203.0.113.1", "DIRECT"),
    ],
)
def test_the_proxy_script(host: str, way: str) -> None:
    """Run by Node.js; ``dnsDomainIs`` is the browser's."""
    helper = "function dnsDomainIs(host, domain) { return host.endsWith(domain); }\n"
    call = f"console.log(FindProxyForURL({json.dumps('https://' + host + '/')}, {json.dumps(host)}));"
    done = subprocess.run(["node", "-e", helper + SCRIPT + call], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == way
