"""The tests of this folder run in a guest kernel: ``make test-kernel``."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_IN_GUEST = "User Mode Linux" in Path("/proc/cpuinfo").read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them; outside a guest they are skipped."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.kernel)
            if not _IN_GUEST:
                item.add_marker(pytest.mark.skip(reason="needs a kernel with ESP: make test-kernel"))
