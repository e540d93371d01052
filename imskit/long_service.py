"""What a program that serves many for long asks of Python and of the system."""

from __future__ import annotations

import contextlib
import gc
import resource

_ALLOCATED = 50_000
"""Objects more than were freed before the young are looked at; Python's own few hundred come with every message."""


def expect_long_service() -> None:
    """Call once when everything has started.

    What lives now is never looked at for garbage again, and the rest less often: reference counting frees nearly
    everything at once; what is left are cycles, of exceptions and ended tasks.  And as many files may be open as the
    system allows this process: many systems give 1024 unless one asks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATED, 10, 10)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some containers allow none but their own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
