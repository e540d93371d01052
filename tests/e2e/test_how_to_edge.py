"""``docs/how-to-edge.md`` as a new user follows it: its own files and commands, a real browser, a call each way."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from imskit.observe.events import read_events
from simulators.lab.browser import Browser, PhonePage
from simulators.lab.control import ask, until
from simulators.lab.host import Host
from simulators.lab.speech import make_speech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

PAGE = Path(__file__).parents[2] / "docs" / "how-to-edge.md"
SECRET = "correct horse battery"
# Firefox and Chromium ask their user; here a file of the machine answers for one page.
POLICY = '{"AudioCaptureAllowedUrls": ["https://127.0.0.1:8443"]}'


def blocks(kind: str) -> list[str]:
    parts = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in parts if name == kind]


def command(beginning: str) -> str:
    """The command of the page that begins so, without its comment."""
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith(beginning)]
    return lines[0].partition("  #")[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(root: Path) -> AsyncIterator[Host]:
    """A computer with a network, in which the reader has written the page's files."""
    host = Host("pc", root / "pc")
    try:
        for words in (
            "link add lan0 type veth peer name lan1",
            "link set lan1 up",
            "address add 192.0.2.10/24 dev lan0",
        ):
            host.run("ip", *words.split())
        for words in ("link set lan0 up", "route add default dev lan0"):
            host.run("ip", *words.split())
        host.write("/etc/chromium/policies/managed/how-to.json", POLICY)
        edge, core, bob = blocks("toml")[:3]
        for old, new in re.findall(r"(core|web_address|ims_address) = (\"127[^\"]*\")", PAGE.read_text()):
            edge = re.sub(rf'{old} = "[^"]*"', f"{old} = {new}", edge)
        bob += 'events = "bob.events"\n'
        for name, text in (("edge", edge), ("core", core), ("bob", bob)):
            (root / f"{name}.toml").write_text(text)
            (root / f"{name}.toml").chmod(0o600)
        yield host
    finally:
        await host.stop()


def argv(root: Path, line: str) -> list[str]:
    tools = Path(sys.executable).parent
    return ["sh", "-c", f'cd {root} && PATH="{tools}:$PATH" exec {line}']


async def test_the_page_as_it_stands(machine: Host, root: Path) -> None:
    speech = make_speech(root)
    await machine.start("core", argv(root, command("imsbridge sim core run")), ready="ready:")
    add = await machine.start(
        "user-add", argv(root, command("imsbridge edge wwsf user add")), stdin=f"{SECRET}\n".encode()
    )
    assert await add.process.wait() == 0, add.tail()
    doctor = await machine.start("doctor", argv(root, command("imsbridge doctor")))
    assert await doctor.process.wait() == 0, doctor.tail()
    assert "answers 200" in doctor.tail()
    await machine.start("edge", argv(root, command("imsbridge edge run")), ready="ready: edge https://127.0.0.1:8443")
    assert "takes calls" in machine.run(*argv(root, command("imsbridge edge status")))
    await machine.start("phone", argv(root, command("imsbridge sim phone run")), ready="ready:")

    (machine.home / ".pki" / "nssdb").mkdir(parents=True)
    (trust,) = re.findall(r"`(certutil -d [^`]*)`", PAGE.read_text().replace("\n", " "))
    machine.run("certutil", "-d", f"sql:{machine.home}/.pki/nssdb", "-N", "--empty-password")
    machine.run(*argv(root, f"env HOME={machine.home} {trust.replace('$HOME', str(machine.home))}"))

    async with Browser(machine, speech["laptop"], "chromium") as browser:
        page = PhonePage(await browser.new_page())
        await page.open("https://127.0.0.1:8443")
        await page.until("session", "out")
        await page.page.fill("#user-name", "alice")
        await page.page.fill("#password", SECRET)
        await page.page.click("#log-in-form button[type=submit]")
        await page.until("line", "ready")
        await page.dial("+15550200")
        await page.until("call", "talking")
        await page.listen()

        async def heard() -> bool:
            return await page.packets_received() >= 50

        await until(heard, "speech comes to the browser")
        await page.press("hangup")
        ended = await until(lambda: of_phone(root, "ended", 1), "the phone sees the end")
        assert ended["packets_received"] > 50
        assert (root / "bob-heard.wav").stat().st_size > 32_000

        target = re.findall(r"http://phone/dial -d '\{\"target\": \"([^\"]*)\"", PAGE.read_text())[0]
        await ask(root / "bob.sock", "POST", "/dial", {"target": target})
        await page.until("call", "ringing-in")
        await page.until_shows("+15550200")
        await page.press("answer")
        await page.until("call", "talking")
        await ask(root / "bob.sock", "POST", "/hangup")
        await page.until("call", "ended", "idle")


async def of_phone(root: Path, name: str, number: int) -> dict[str, int]:
    found = [event for event in read_events(root / "bob.events") if event["event"] == name]
    return found[number - 1] if len(found) >= number else {}
