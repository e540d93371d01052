"""The lab for end-to-end tests: this process moves into network namespaces of its own before the first of them.

They run in a pytest process of their own (``make test`` does so): ``pytest tests/e2e -m e2e``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
