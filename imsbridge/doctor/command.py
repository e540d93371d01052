"""The command ``imsbridge doctor``."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from imsbridge.doctor.agent import agent
from imsbridge.doctor.device import device
from imsbridge.doctor.finding import Finding
from imskit.config.model import ConfigError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor`` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="everything that can be wrong on this device, one line each",
        description="Looks at this device and says what is missing, with the cure. With -c it looks at what that "
        "configuration needs as well: the agent's, or the network edge's.",
        epilog="exit codes: 0 nothing bad, 1 something is bad, 2 wrong configuration",
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", type=Path, help="configuration of the agent (ue.toml) or the edge (edge.toml)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; the return value is the exit code."""
    findings = []
    try:
        for finding in _findings(arguments.config):
            findings.append(finding)
            if not arguments.json:
                _show(finding)
    except ConfigError as error:
        print(f"imsbridge doctor: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0


def _findings(config: Path | None) -> Iterator[Finding]:
    if config is not None and _of_the_edge(config):
        from imsbridge.doctor.edge import edge

        yield from edge(config)
        return
    yield from device()
    if config is not None:
        yield from agent(config)


def _of_the_edge(path: Path) -> bool:
    """What cannot be read is said when it is read in earnest."""
    from network_edge.config import is_edge

    try:
        return is_edge(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _show(finding: Finding) -> None:
    print(f"{finding.verdict:<5} {finding.what:<18} {finding.text}", flush=True)
    if finding.cure:
        print(f"      {'':<18} -> {finding.cure}")
