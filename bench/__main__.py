"""All benches, one after the other: ``python -m bench [--json FILE] [--runs N] [--seconds S]``."""

from __future__ import annotations

import argparse
import sys

from bench import (
    aka,
    calls,
    dns_proxy,
    edge_calls,
    edge_memory,
    esp,
    gateway,
    media,
    registration,
    turn,
    websocket_register,
)
from bench.measure import Row, main


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Run every bench and return all rows."""
    rows: list[Row] = []
    modules = (
        calls,
        turn,
        media,
        gateway,
        dns_proxy,
        esp,
        aka,
        registration,
        websocket_register,
        edge_calls,
        edge_memory,
    )
    for module in modules:
        print(f"bench: {module.__name__.removeprefix('bench.')}", file=sys.stderr, flush=True)
        rows += module.measure(arguments)
    return rows


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
