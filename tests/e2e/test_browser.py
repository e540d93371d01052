"""The browser is one that knows nothing of the agent (issue 2, done-when 2; S7-BROWSER, S7-WWPF).

What it needs comes from files that an installation puts on the device; the page is byte for byte the operator's.
"""

from __future__ import annotations

import base64
import re

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from playwright.async_api import Response

from simulators.lab.browser import Browser, PhonePage
from simulators.lab.host import Host
from simulators.lab.lab import OTHER_URL, PORTAL, PORTAL_URL, TURN, WEBSOCKET, Lab
from simulators.lab.topology import HANDSET_TURN, OPERATOR_PORTAL, OTHER_HOST
from ue_agent.wwpf.ca import LocalCa, load_or_create

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="session")]

TRACES = re.compile(
    rb"imsbridge|solution.?7|\bUE.?agent\b|\bwwpf\b|\brmf\b|\bsif\b|chrome-extension|moz-extension"
    rb"|\blocalhost\b|\b127\.0\.0\.|\b10\.99\.|\b192\.0\.2\.1\b|\b203\.0\.113\.2\b|\b8080\b|\bproxy\.pac\b",
    re.IGNORECASE,
)
"""Names and addresses by which a page could tell, or be told, that there is an agent."""
ALLOWED_FLAGS = {
    # the lab's
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "user-data-dir",
    "remote-debugging-port",
    # the fake microphone
    "use-fake-device-for-media-stream",
    "use-file-for-fake-audio-capture",
    # Debian's own, of every Chromium there
    "show-component-extension-options",
    "enable-gpu-rasterization",
    "no-default-browser-check",
    "disable-pings",
    "media-router",
    "enable-remote-extensions",
    "load-extension",
    "disable-extensions-except",
}
EMPTY_FLAGS = {"load-extension", "disable-extensions-except"}
"""They name extensions: none."""
MICROPHONE = "navigator.permissions.query({ name: 'microphone' }).then(found => found.state)"
LISTEN = """navigator.mediaDevices.getUserMedia({ audio: true })
  .then(stream => { stream.getTracks().forEach(track => track.stop()); return 'heard'; }, error => error.name)"""


def _authority(lab: Lab) -> LocalCa:
    return load_or_create(lab.root / "agent-state", ["ims.example"])


async def _host_certificate(tab: PhonePage, url: str) -> x509.Certificate:
    """The certificate with which the browser loads ``url``; it must agree with what it shows the user."""
    session = await tab.page.context.new_cdp_session(tab.page)
    await session.send("Network.enable")
    answer = await tab.page.goto(url)
    assert answer is not None
    security = await answer.security_details()
    found = await session.send("Network.getCertificate", {"origin": url})
    await session.detach()
    certificate = x509.load_der_x509_certificate(base64.b64decode(found["tableNames"][0]))
    assert security is not None
    assert security["validFrom"] == certificate.not_valid_before_utc.timestamp()
    assert f"CN={security['issuer']}" == certificate.issuer.rfc4514_string()
    return certificate


async def test_page_and_all_that_it_loads_name_nothing_of_the_agent(lab: Lab, tab: PhonePage) -> None:
    responses: list[Response] = []
    sockets: list[str] = []
    tab.page.on("response", lambda response: responses.append(response))
    tab.page.on("websocket", lambda socket: sockets.append(socket.url))
    await tab.open(PORTAL_URL)
    await tab.until("line", "ready")
    await tab.page.evaluate("fetch('/api/turn').then(answer => answer.text())")
    paths = {response.url.removeprefix(PORTAL_URL) for response in responses}
    assert {"", "assets/phone.js", "assets/phone.css", "api/session", "api/turn"} <= paths
    assert sockets == [f"wss://{WEBSOCKET}/sip"]
    for response in responses:
        assert response.url.startswith(PORTAL_URL), response.url
        headers = await response.headers_array()
        said = [response.url, *(f"{header['name']}: {header['value']}" for header in headers)]
        for part in (*(text.encode() for text in said), await response.body()):
            found = TRACES.search(part)
            assert found is None, f"{response.url}: {part[max(0, found.start() - 40) : found.end() + 40]!r}"


async def test_page_is_the_operators_byte_for_byte(lab: Lab, tab: PhonePage) -> None:
    """What the browser gets through the agent is what the operator's server gives to anybody."""
    responses: list[Response] = []
    tab.page.on("response", lambda response: responses.append(response))
    await tab.open(PORTAL_URL)
    await tab.until("line", "ready")
    static = [response for response in responses if "/api/" not in response.url]
    assert len(static) >= 3
    for response in static:
        path = lab.root / "direct"
        lab.net.operator.run(
            *("curl", "--silent", "--show-error", "--fail", "--cacert", str(lab.operator_ca.root)),
            *("--connect-to", f"::{OPERATOR_PORTAL}:", "--output", str(path), response.url),
        )
        assert await response.body() == path.read_bytes(), response.url


async def test_page_cannot_see_the_agent(phone_page: PhonePage) -> None:
    """Nothing is put into the page: no script of ours, no global name, no cookie that a script can read."""
    page = phone_page.page
    scripts = await page.evaluate("[...document.scripts].map(script => script.src)")
    assert scripts == [f"{PORTAL_URL}assets/phone.js"]
    names = await page.evaluate("""() => {
      const frame = document.createElement('iframe');
      document.body.append(frame);
      const plain = new Set(Object.getOwnPropertyNames(frame.contentWindow));
      frame.remove();
      return Object.getOwnPropertyNames(window).filter(name => !plain.has(name) && isNaN(name));
    }""")
    assert not TRACES.search(" ".join(names).encode())
    assert await page.evaluate("document.cookie") == ""
    servers = await page.evaluate("fetch('/api/turn').then(answer => answer.json())")
    assert all(uri.startswith(f"turn:{TURN}:") for uri in servers["uris"])


async def test_command_line(browser: Browser) -> None:
    """No flag touches proxy, DNS, certificates, permissions or WebRTC, beyond the fake microphone."""
    assert browser.process is not None
    command = psutil.Process(browser.process.pid).cmdline()
    assert command[0] == "/usr/lib/chromium/chromium"
    assert [argument for argument in command[1:] if not argument.startswith("--")] == ["about:blank"]
    for argument in (argument for argument in command[1:] if argument.startswith("--")):
        name, _, value = argument.removeprefix("--").partition("=")
        assert name in ALLOWED_FLAGS, argument
        assert not (name in EMPTY_FLAGS and value.strip(" ,")), argument
    environment = psutil.Process(browser.process.pid).environ()
    assert not [name for name in environment if name.lower().endswith("_proxy")]


async def test_no_extension_runs(browser: Browser, phone_page: PhonePage) -> None:
    assert browser.process is not None
    children = psutil.Process(browser.process.pid).children(recursive=True)
    assert children
    assert not [child for child in children if "--extension-process" in child.cmdline()]
    session = await browser.driver.new_browser_cdp_session()
    targets = (await session.send("Target.getTargets"))["targetInfos"]
    await session.detach()
    assert targets
    assert not [target["url"] for target in targets if target["url"].startswith("chrome-extension:")]


async def test_portal_certificate_is_the_local_authoritys(lab: Lab, tab: PhonePage) -> None:
    leaf = await _host_certificate(tab, PORTAL_URL)
    authority = _authority(lab)
    leaf.verify_directly_issued_by(authority.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [PORTAL]
    constraints = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert [name.value for name in constraints.value.permitted_subtrees or ()] == ["ims.example"]
    excluded = {str(name.value) for name in constraints.value.excluded_subtrees or ()}
    assert excluded == {"0.0.0.0/0", "::/0"}
    installed = (lab.root / "agent-state" / "chromium-policy.json").read_text()
    assert base64.b64encode(authority.der).decode() in installed


async def test_another_hosts_certificate_is_its_own(lab: Lab, tab: PhonePage) -> None:
    own = (lab.root / "web-ca" / "www.other.example.pem").read_bytes()
    assert await _host_certificate(tab, OTHER_URL) == x509.load_pem_x509_certificate(own)


async def _serve(lab: Lab, name: str, host: Host, address: str) -> str:
    """Serve ``name`` on port 8443 of ``address`` with a certificate signed by the local authority's key."""
    authority = _authority(lab)
    signer = LocalCa(authority.certificate, authority.key, (name,))
    leaf = signer.leaf(name)
    certificate, key = lab.root / f"{name}.pem", lab.root / f"{name}.key"
    certificate.write_bytes(leaf.certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    await lab.start_web_host(name, address, certificate, key, 8443, host)
    return f"https://{name}:8443/"


async def test_local_authority_is_trusted_for_the_operator_only(lab: Lab, tab: PhonePage) -> None:
    """Somebody who has its key can still not pose as a host that is not the operator's."""
    forged = await _serve(lab, "www.other.example", lab.net.operator, OTHER_HOST)
    with pytest.raises(Exception, match="ERR_CERT_INVALID"):
        await tab.page.goto(forged)
    # The same key, the same way, for a name of the operator's that is not proxied: so it was the name.
    genuine = await _serve(lab, TURN, lab.net.handset, HANDSET_TURN)
    answer = await tab.page.goto(genuine)
    assert answer is not None
    assert answer.status == 200
    await lab.stop_one(TURN)
    await lab.stop_one("www.other.example")


async def test_microphone_is_the_portals_only(phone_page: PhonePage, browser: Browser) -> None:
    assert await phone_page.page.evaluate(MICROPHONE) == "granted"
    assert await phone_page.page.evaluate(LISTEN) == "heard"
    other = await browser.new_page()
    await other.goto(OTHER_URL)
    assert await other.evaluate(MICROPHONE) != "granted"
    assert await other.evaluate(LISTEN) == "NotAllowedError"
    await other.close()


async def test_the_rest_of_the_web_works_without_the_agent(lab: Lab, browser: Browser) -> None:
    """S7-BROWSER: the proxy settings do not bind the device to the agent; the portal then is a plain page."""
    running = PhonePage(await browser.new_page())
    await lab.stop_agent()
    try:
        answer = await running.page.goto(OTHER_URL + "without-agent")
        assert answer is not None
        assert answer.status == 200
        async with Browser(lab.net.handset, lab.root / "browser.wav", "without-agent") as fresh:
            tab = PhonePage(await fresh.new_page())
            answer = await tab.page.goto(OTHER_URL)
            assert answer is not None
            assert answer.status == 200
            answer = await tab.page.goto(PORTAL_URL)
            assert answer is not None
            assert ((await answer.security_details()) or {})["issuer"] == "Lab operator"
            await tab.until("session", "out")
            assert "You are not logged in" in await tab.shown()
    finally:
        await running.page.close()
        await lab.start_agent()
        await lab.registered()
