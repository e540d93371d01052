"""``imsbridge ue wwpf run | policies``: the web proxy alone, and what browsers need to use it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imskit.observe import logs
from imskit.secrets import Secret
from ue_agent.wwpf.ca import CERTIFICATE_FILE, load_or_create
from ue_agent.wwpf.config import Address, AgentSocket, Browser, Site, WwpfConfig, host_name
from ue_agent.wwpf.policies import browser_policies

_RUN_EPILOG = """\
Without --agent-socket nobody is logged in: the proxy intercepts the operator's hosts with its own certificates, passes
all of it on, and tunnels other hosts untouched.  The CA is made on first start in --state; it can sign for the
operator's domains only.

example:
  imsbridge ue wwpf run --listen 127.0.0.1:8080 --pac 127.0.0.1:8079 --operator-domain ims.example \\
      --direct-host turn.ims.example
  curl --proxy http://127.0.0.1:8080 --cacert ~/.local/state/imsbridge/wwpf/ca.pem https://portal.ims.example/

exit codes: 0 stopped by SIGTERM or SIGINT, 1 it cannot start, 2 wrong arguments
"""
_POLICIES_EPILOG = """\
example (Debian's Chromium; Google Chrome reads /etc/opt/chrome/policies/managed):
  imsbridge ue wwpf policies --operator-domain ims.example --portal https://portal.ims.example \\
      --pac 127.0.0.1:8079 > /etc/chromium/policies/managed/imsbridge.json
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``wwpf run`` and ``wwpf policies`` to the sub-commands of ``imsbridge ue``."""
    wwpf = subparsers.add_parser("wwpf", help="the web proxy that logs the browser in with the card")
    commands = wwpf.add_subparsers(dest="wwpf_command", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    run_parser = commands.add_parser(
        "run",
        help="run it alone",
        description="An explicit HTTP proxy that opens the operator's hosts and no others.",
        epilog=_RUN_EPILOG,
        formatter_class=raw,
    )
    run_parser.add_argument(
        "--listen", metavar="ADDR:PORT", type=_argument(Address.parse), required=True, help="where browsers connect"
    )
    _common(run_parser)
    run_parser.add_argument(
        "--direct-host",
        metavar="NAME",
        type=_argument(host_name),
        action="append",
        default=[],
        help="a host of the operator that is not proxied: its STUN/TURN names",
    )
    run_parser.add_argument(
        "--trust",
        metavar="FILE",
        type=Path,
        help="CAs (PEM) to verify the operator's servers against (default: system)",
    )
    run_parser.add_argument(
        "--agent-socket",
        metavar="PATH",
        type=Path,
        help="socket of the agent that answers challenges; its secret is read from the first line of standard input",
    )
    run_parser.add_argument(
        "--browser",
        metavar="PATH",
        action="append",
        default=[],
        help="program (as /proc/PID/exe shows it) that is logged in; others get the page without log-in",
    )
    run_parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    run_parser.set_defaults(run=run)
    policies = commands.add_parser(
        "policies",
        help="print the policy file that lets Chromium use it",
        description="Prints Chromium's managed policy (JSON): the device's CA, the proxy, the microphone.",
        epilog=_POLICIES_EPILOG,
        formatter_class=raw,
    )
    _common(policies)
    policies.set_defaults(run=print_policies)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--operator-domain",
        metavar="DOMAIN",
        type=_argument(host_name),
        action="append",
        required=True,
        help="only hosts in it are intercepted; may be repeated",
    )
    parser.add_argument(
        "--pac", metavar="ADDR:PORT", type=_argument(Address.parse), help="where the proxy settings (PAC) are served"
    )
    parser.add_argument(
        "--portal",
        metavar="URL",
        type=_argument(Site.parse),
        action="append",
        default=[],
        help="https://HOST[:PORT] of a page that is logged in to with the card; may be repeated",
    )
    parser.add_argument(
        "--state", metavar="DIR", type=Path, default=_default_state(), help="directory of the CA (default %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    agent = None
    if arguments.agent_socket is not None:
        secret = sys.stdin.readline().strip()
        if not secret:
            return _complain("run", "--agent-socket: its secret is expected on the first line of standard input")
        agent = AgentSocket(arguments.agent_socket, Secret(secret))
    try:
        config = WwpfConfig(
            listen=arguments.listen,
            pac=arguments.pac,
            state=arguments.state,
            operator_domains=arguments.operator_domain,
            direct_hosts=arguments.direct_host,
            portals=arguments.portal,
            browsers=[Browser(path) for path in arguments.browser],
            trust=arguments.trust,
            agent=agent,
        )
    except ValueError as error:
        return _complain("run", str(error))
    return asyncio.run(_serve(config))


def print_policies(arguments: argparse.Namespace) -> int:
    """Print the policy file; makes the CA if there is none yet."""
    if arguments.pac is None:
        return _complain("policies", "--pac ADDR:PORT is needed: where 'wwpf run' serves the proxy settings")
    try:
        ca = load_or_create(arguments.state, arguments.operator_domain)
    except OSError as error:
        print(f"imsbridge ue wwpf policies: {arguments.state}: {error.strerror}", file=sys.stderr)
        return 1
    policies = browser_policies(
        ca_der=ca.der,
        pac_url=f"http://{arguments.pac}/proxy.pac",
        portals=arguments.portal,
        operator_domains=arguments.operator_domain,
    )
    print(json.dumps(policies, indent=2))
    return 0


async def _serve(config: WwpfConfig) -> int:
    # mitmproxy takes a second and 70 MB to import: the other sub-commands of `imsbridge ue` do without.
    from ue_agent.wwpf.proxy import WebProxy, WwpfError

    stop = asyncio.Event()
    proxy = WebProxy(config)
    try:
        await proxy.start()
    except WwpfError as error:
        print(f"imsbridge ue wwpf run: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    pac = f", {proxy.pac_url}" if proxy.pac_url else ""
    ready = f"ready: wwpf {proxy.address}, CA {config.state / CERTIFICATE_FILE}{pac}"
    print(ready, file=sys.stderr, flush=True)
    await stop.wait()
    await proxy.aclose()
    return 0


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local/state") / "imsbridge/wwpf"


def _complain(command: str, text: str) -> int:
    print(f"imsbridge ue wwpf {command}: {text}", file=sys.stderr)
    return 2


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the parser's own words instead of "invalid value"."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
