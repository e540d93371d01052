"""The garbage collector of a program that serves for long."""

from __future__ import annotations

import gc

_ALLOCATED = 50_000
"""Objects more than were freed before the young are looked at; Python's own few hundred come with every message."""


def expect_long_service() -> None:
    """Call once when everything has started: what lives now is never looked at again, and the rest less often.

    Reference counting frees nearly everything at once; what is left are cycles, of exceptions and ended tasks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATED, 10, 10)
