"""``imsbridge sim phone run``: a VoLTE phone, for labs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from imskit.config.model import ConfigError, load
from imskit.ipsec.errors import IpsecError
from imskit.observe import logs
from imskit.sockets import unix_socket
from simulators.phone import control_socket
from simulators.phone.config import PhoneConfig
from simulators.phone.phone import Phone
from simulators.phone.wav import WavError

_log = logging.getLogger(__name__)

_EPILOG = """\
The configuration is TOML; ``imsbridge config sample phone`` prints one with every setting explained.

control socket (curl --unix-socket PATH):
  curl --unix-socket phone.sock http://phone/status
  curl --unix-socket phone.sock http://phone/dial -d '{"target": "+15550100"}'
  curl --unix-socket phone.sock http://phone/answer -d ''       (with --manual)
  curl --unix-socket phone.sock http://phone/hangup -d ''
  curl --unix-socket phone.sock http://phone/behaviour -d '{"behaviour": "busy"}'

exit codes: 0 stopped by SIGTERM or SIGINT, 1 a socket or file could not be had, 2 wrong arguments or configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``phone run`` to the sub-commands of ``imsbridge sim``."""
    phone = subparsers.add_parser("phone", help="a VoLTE phone that plays and records WAV files")
    commands = phone.add_subparsers(dest="phone_command", required=True)
    parser = commands.add_parser(
        "run",
        help="register, take calls and make them",
        description="A VoLTE UE with a USIM in software: AKA, preconditions, AMR-WB and AMR over RTP.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, required=True, help="configuration (TOML)")
    parser.add_argument("--play", metavar="WAV", type=Path, help="what to speak: 16 kHz, mono, 16 bit")
    parser.add_argument("--record", metavar="WAV", type=Path, help="what is heard, begun anew with each call")
    behaviour = parser.add_mutually_exclusive_group()
    behaviour.add_argument("--answer-after", metavar="S", type=_seconds, help="answer after S seconds of ringing")
    behaviour.add_argument("--manual", action="store_true", help="ring until told to answer")
    behaviour.add_argument("--busy", action="store_true", help="say that it is busy (486)")
    behaviour.add_argument("--decline", action="store_true", help="decline (603)")
    behaviour.add_argument("--ignore", action="store_true", help="ring and never answer")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = _adjusted(load(PhoneConfig, arguments.config), arguments)
        return asyncio.run(_serve(config))
    except ConfigError as error:
        print(f"imsbridge sim phone run: {error}", file=sys.stderr)
        return 2
    except (OSError, IpsecError, WavError) as error:
        print(f"imsbridge sim phone run: {error}", file=sys.stderr)
        return 1


def _adjusted(config: PhoneConfig, arguments: argparse.Namespace) -> PhoneConfig:
    """Let the arguments have the last word."""
    if arguments.play is not None:
        config = replace(config, play=arguments.play)
    if arguments.record is not None:
        config = replace(config, record=arguments.record)
    if arguments.answer_after is not None:
        return replace(config, behaviour="answer", answer_after=arguments.answer_after)
    if arguments.manual:
        return replace(config, behaviour="manual")
    if arguments.busy:
        return replace(config, behaviour="busy")
    if arguments.decline:
        return replace(config, behaviour="decline")
    return replace(config, behaviour="ignore") if arguments.ignore else config


async def _serve(config: PhoneConfig) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    phone = Phone(config)
    async with AsyncExitStack() as stack:
        await phone.start()
        stack.push_async_callback(phone.close)
        if config.control is not None:
            await stack.enter_async_context(unix_socket(control_socket.application(phone), config.control))
        print(f"ready: phone {phone.address[0]}:{phone.address[1]}", file=sys.stderr, flush=True)
        await stop.wait()
        _log.info("the phone is switched off")
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds below an hour")
    return value
