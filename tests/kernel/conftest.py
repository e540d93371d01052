"""The tests of this folder run in a guest kernel: ``make test-kernel``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.lab.gm_link import Ends, two_ends
from simulators.lab.user_mode_linux import in_guest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them; outside a guest they are skipped."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.kernel)
            if not in_guest():
                item.add_marker(pytest.mark.skip(reason="needs a kernel with ESP: make test-kernel"))


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with two_ends() as made:
        yield made
