"""The log of the programs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from imskit.observe import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards, with the levels that `logs.set_up` changes."""
    names = ("", "aioice", "aiortc", "mitmproxy", "websockets", "aiohttp", "hpack", "asyncio")
    before = {name: logging.getLogger(name).level for name in names}
    root = logging.getLogger()
    handlers = root.handlers[:]
    yield root
    root.handlers[:] = handlers
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_strangers_make_no_lines_of_their_own(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Reason phrases, names and realms come from the network: no forged lines, no terminal escapes."""
    logs.set_up("info")
    logging.getLogger("some.where").warning("refused: %s", "no\r\n12:00:00.000 INFO    all: is well\x1b[2J\x9b")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"WARNING some.where: refused: no\x0d\x0a12:00:00.000 INFO    all: is well\x1b[2J\x9b")


def test_a_traceback_keeps_its_lines(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    try:
        raise ValueError("what happened")
    except ValueError:
        logging.getLogger("some.where").exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("it failed")
    assert lines[-1] == "ValueError: what happened"
