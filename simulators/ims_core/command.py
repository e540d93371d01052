"""``imsbridge sim core run``: the operator's IMS core, for labs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from imskit.config.model import ConfigError, load
from imskit.ipsec.errors import IpsecError
from imskit.observe import logs
from imskit.sockets import unix_socket
from simulators.ims_core import control_socket
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.core import ImsCore

_log = logging.getLogger(__name__)

_EPILOG = """\
The configuration is TOML; ``imsbridge config sample core`` prints one with every setting explained.  UEs register
over the addresses in gm with AKA, in clear or with IPsec (gm_security), or over those in tls; they call each other by
number, and are told of their registration (reg event).

control socket (curl --unix-socket PATH):
  curl --unix-socket core.sock http://core/registrations
  curl --unix-socket core.sock http://core/security
  curl --unix-socket core.sock http://core/deregister -d '{"impi": "…", "event": "deactivated"}'

exit codes: 0 stopped by SIGTERM or SIGINT, 1 a socket or IPsec could not be had, 2 wrong arguments or configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``core run`` and ``core sample`` to the sub-commands of ``imsbridge sim``."""
    core = subparsers.add_parser("core", help="the operator's IMS core: P-CSCF, I/S-CSCF, HSS")
    commands = core.add_subparsers(dest="core_command", required=True)
    parser = commands.add_parser(
        "run",
        help="serve UEs",
        description="P-CSCF, I-CSCF, S-CSCF and HSS in one process.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="configuration (TOML)")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = load(CoreConfig, arguments.config)
        return asyncio.run(_serve(ImsCore(config), config.control))
    except (ConfigError, ValueError) as error:
        print(f"imsbridge sim core run: {error}", file=sys.stderr)
        return 2
    except (OSError, IpsecError) as error:
        print(f"imsbridge sim core run: {error}", file=sys.stderr)
        return 1


async def _serve(core: ImsCore, control: Path | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        await core.start()
        stack.push_async_callback(core.close)
        if control is not None:
            await stack.enter_async_context(unix_socket(control_socket.application(core), control))
        print(f"ready: core {' '.join(f'{host}:{port}' for host, port in core.gm)}", file=sys.stderr, flush=True)
        await stop.wait()
        _log.info("the core stops with %d subscribers registered", len(core.registrations()))
    return 0
