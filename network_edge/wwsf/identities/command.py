"""``imsbridge edge wwsf user add|list|remove|import``: the accounts in the database."""

from __future__ import annotations

import argparse
import asyncio
import csv
import getpass
import io
import json
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from imskit.config.model import ConfigError, load
from imskit.secrets import Secret
from network_edge.wwsf.config import WwsfConfig
from network_edge.wwsf.identities.config import IdentitiesConfig
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.leases import Leases
from network_edge.wwsf.identities.model import Account, StoreError, identities, normal_name
from network_edge.wwsf.identities.sql import SqlStore

_IMPORT = """\
FILE is CSV (UTF-8) with a heading; '-' is the standard input.  Columns:
  name          web identity
  password      may be empty with issuer and subject
  impi, impus   private identity; public identities, separated by blanks, the default (a SIP URI) first
  display       how the user is called; may be empty
  range         instead of impi and impus: a range of the configuration
  registration  token (default) or digest
  issuer, subject   who the user is at an OpenID provider
All users are added or, if one line is wrong, none.  Keep the file secret and remove it afterwards.
"""
_COLUMNS = ("name", "password", "impi", "impus", "display", "range", "registration", "issuer", "subject")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``user`` to the sub-commands of ``imsbridge edge wwsf``."""
    user = commands.add_parser("user", help="accounts: add, list, remove, import")
    actions = user.add_subparsers(dest="user_command", required=True)

    def action(name: str, help: str, work: Callable[..., Awaitable[None]], epilog: str = "") -> argparse.ArgumentParser:
        parser = actions.add_parser(
            name, help=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument(
            "-c", "--config", metavar="FILE", type=Path, required=True, help="configuration of the WWSF"
        )
        parser.set_defaults(run=run, work=work)
        return parser

    add = action("add", "add a user; the password is asked for, or read as one line from the standard input", _add)
    add.add_argument("name", help="web identity")
    add.add_argument("--impi", default="", help="private identity, user@domain")
    add.add_argument("--impu", action="append", default=[], help="public identity; repeatable, the default first")
    add.add_argument("--display", default="", help="how the user is called")
    add.add_argument("--range", default="", help="instead: draw an identity from this range at each log-in")
    add.add_argument("--registration", choices=("token", "digest"), default="token", help="(default token)")
    add.add_argument("--issuer", default="", help="OpenID provider that the user logs in with")
    add.add_argument("--subject", default="", help="who the user is there; then there is no password")
    listing = action("list", "list the users, and how full the ranges are", _list)
    listing.add_argument("--json", action="store_true", help="as JSON, with the identities in full")
    action("remove", "remove a user", _remove).add_argument("name", help="web identity")
    action("import", "add users from a CSV file", _import, _IMPORT).add_argument("file", metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Do it; the return value is the exit code."""
    try:
        config = _wwsf_config(arguments.config).identities
        if config is None:
            raise ConfigError(f"{arguments.config}: there is no table [identities]")
        asyncio.run(_with_store(arguments, config))
    except (ConfigError, ValueError) as error:
        print(f"imsbridge edge wwsf user {arguments.user_command}: {error}", file=sys.stderr)
        return 2
    except (StoreError, OSError) as error:
        print(f"imsbridge edge wwsf user {arguments.user_command}: {error}", file=sys.stderr)
        return 1
    return 0


def _wwsf_config(path: Path) -> WwsfConfig:
    """Read the WWSF's configuration, from a file of its own or one of the whole edge."""
    from network_edge.config import is_edge, load_edge

    try:
        whole = is_edge(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        whole = False  # what is wrong is said below
    if not whole:
        return load(WwsfConfig, path)
    edge = load_edge(path)
    edge.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    return edge.parts[0]


async def _with_store(arguments: argparse.Namespace, config: IdentitiesConfig) -> None:
    if config.ldap is not None:
        raise ConfigError("the accounts are in a directory (identities.ldap): change them there")
    database = Database(config.database)
    try:
        await arguments.work(arguments, config, database)
    finally:
        await database.close()


async def _add(arguments: argparse.Namespace, config: IdentitiesConfig, database: Database) -> None:
    account = _account(
        config,
        arguments.name,
        arguments.impi,
        arguments.impu,
        display=arguments.display,
        range=arguments.range,
        registration=arguments.registration,
        issuer=arguments.issuer,
        subject=arguments.subject,
    )
    password = None if account.subject else _password()
    await SqlStore(database).add([(account, password)])
    print(f"added {account.name}")


async def _list(arguments: argparse.Namespace, config: IdentitiesConfig, database: Database) -> None:
    accounts = await SqlStore(database).accounts()
    ranges = await Leases(database, config.ranges, time.time, 0).used()
    if arguments.json:
        users = [
            {
                "name": account.name,
                "impi": str.__str__(account.identities.impi) if account.identities else None,
                "impus": [str.__str__(impu) for impu in account.identities.impus] if account.identities else [],
                "range": account.range or None,
                "registration": account.registration,
                "issuer": account.issuer or None,
                "subject": account.subject or None,
            }
            for account in accounts
        ]
        used = {name: {"used": taken, "size": size} for name, (taken, size) in ranges.items()}
        print(json.dumps({"users": users, "ranges": used}, indent=2))
        return
    for account in accounts:
        what = f"range {account.range}" if account.identities is None else account.identities.impus[0].masked
        print(f"{account.name:<32} {account.registration:<7} {what}" + (" openid" if account.subject else ""))
    for name, (taken, size) in ranges.items():
        print(f"range {name}: {taken} of {size} in use")


async def _remove(arguments: argparse.Namespace, config: IdentitiesConfig, database: Database) -> None:
    await SqlStore(database).remove(arguments.name)
    print(f"removed {normal_name(arguments.name)}; who is logged in stays so until the log-in ends")


async def _import(arguments: argparse.Namespace, config: IdentitiesConfig, database: Database) -> None:
    if arguments.file == "-":
        rows = _rows(config, sys.stdin)
    else:
        text = await asyncio.to_thread(Path(arguments.file).read_text, encoding="utf-8-sig")
        rows = _rows(config, io.StringIO(text, newline=""))
    await SqlStore(database).add(rows)
    print(f"added {len(rows)} users")


def _rows(config: IdentitiesConfig, lines: Iterable[str]) -> list[tuple[Account, Secret[str] | None]]:
    reader = csv.DictReader(lines, strict=True)
    unknown = set(reader.fieldnames or ()) - set(_COLUMNS)
    if unknown or "name" not in (reader.fieldnames or ()):
        raise ValueError(f"the first line must name columns of: {', '.join(_COLUMNS)}")
    rows: list[tuple[Account, Secret[str] | None]] = []
    try:
        for row in reader:
            cell = {column: (row.get(column) or "").strip() for column in _COLUMNS if column != "password"}
            account = _account(
                config,
                cell["name"],
                cell["impi"],
                cell["impus"].split(),
                display=cell["display"],
                range=cell["range"],
                registration=cell["registration"] or "token",
                issuer=cell["issuer"],
                subject=cell["subject"],
            )
            rows.append((account, Secret(row["password"]) if row.get("password") else None))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return rows


def _account(
    config: IdentitiesConfig,
    name: str,
    impi: str,
    impus: list[str],
    *,
    display: str,
    range: str,
    registration: str,
    issuer: str,
    subject: str,
) -> Account:
    if registration not in ("token", "digest"):
        raise ValueError(f"registration is token or digest, not {registration}")
    if range and range not in {item.name for item in config.ranges}:
        raise ValueError(f"there is no range {range} in the configuration")
    if range and (impi or impus):
        raise ValueError("an account has either identities of its own or a range")
    own = None if range else identities(impi, impus, display)
    return Account(normal_name(name), own, range, "digest" if registration == "digest" else "token", issuer, subject)


def _password() -> Secret[str]:
    if not sys.stdin.isatty():
        return Secret(sys.stdin.readline().rstrip("\r\n"))
    password = Secret(getpass.getpass("Password: "))
    if password != Secret(getpass.getpass("Again: ")):
        raise ValueError("the two passwords differ")
    return password
