"""The lab for end-to-end tests: this process moves into network namespaces of its own before the first of them.

They run in a pytest process of their own (``make test`` does so): ``pytest tests/e2e -m e2e``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from simulators.lab.browser import Browser, PhonePage
from simulators.lab.lab import PORTAL_URL, Lab
from simulators.lab.speech import make_speech
from simulators.lab.world import LabError, enter


@pytest.fixture(scope="session")
def world() -> None:
    """Enter the private namespaces, once; fails loudly where the kernel refuses."""
    try:
        enter()
    except LabError as error:
        pytest.fail(f"the end-to-end tests need network namespaces: {error}", pytrace=False)


@pytest.fixture(scope="module")
def root(world: None) -> Iterator[Path]:
    """A folder for the lab's files, with a short path: Unix sockets live in it."""
    path = Path(tempfile.mkdtemp(prefix="imsbridge-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lab(world: None) -> AsyncIterator[Lab]:
    """The whole lab, running, for all tests that do not make their own; whoever stops a part starts it again."""
    path = Path(tempfile.mkdtemp(prefix="imsbridge-"))
    lab = Lab(path)
    try:
        speech = make_speech(path)
        await lab.start(play=speech["phone"], record=path / "phone-heard.wav")
        await lab.registered()
        yield lab
    finally:
        await lab.stop()
        shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser(lab: Lab, request: pytest.FixtureRequest) -> AsyncIterator[Browser]:
    """A browser with a fresh profile for the module."""
    name = request.module.__name__.rpartition(".")[2]
    async with Browser(lab.net.handset, lab.root / "browser.wav", name) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser) -> AsyncIterator[PhonePage]:
    """A fresh tab, with nothing in it."""
    page = await browser.new_page()
    yield PhonePage(page)
    await page.close()


@pytest_asyncio.fixture(loop_scope="session")
async def phone_page(lab: Lab, tab: PhonePage) -> PhonePage:
    """The operator's page in a tab, logged in and ready for calls."""
    await tab.open(PORTAL_URL)
    await tab.until("session", "in")
    await tab.until("line", "ready")
    return tab
