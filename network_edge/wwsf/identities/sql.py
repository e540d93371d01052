"""Accounts in SQL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from imskit.secrets import Identity, Secret
from network_edge.wwsf.identities.database import Database, users
from network_edge.wwsf.identities.model import (
    MAX_PASSWORD,
    Account,
    ImsIdentities,
    StoreError,
    StoreUnavailableError,
    normal_name,
)
from network_edge.wwsf.identities.passwords import Passwords

_log = logging.getLogger(__name__)


class SqlStore:
    """``IdentityStore`` in a ``Database``, with what the command line needs to fill it."""

    def __init__(self, database: Database, passwords: Passwords | None = None) -> None:
        self._database = database
        self._passwords = passwords or Passwords()

    async def log_in(self, name: str, password: Secret[str]) -> Account | None:
        """See ``IdentityStore``."""
        row = None
        try:
            row = await self._row(users.c.name == normal_name(name))
        except ValueError:
            _log.debug("a log-in with a name that can be none")
        fits = 0 < len(password.reveal()) <= MAX_PASSWORD
        verdict = await self._passwords.verify(row.password if row and fits else None, password)
        if not verdict.right or row is None:
            return None
        if verdict.rehashed is not None:
            await self._keep(row.name, row.password, verdict.rehashed)
        return _account(row)

    async def by_subject(self, issuer: str, subject: str) -> Account | None:
        """See ``IdentityStore``."""
        row = await self._row(sa.and_(users.c.issuer == issuer, users.c.subject == subject))
        return _account(row) if row else None

    async def check(self) -> None:
        """See ``IdentityStore``."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.select(users.c.name).limit(1))

    async def add(self, accounts: Sequence[tuple[Account, Secret[str] | None]]) -> None:
        """Add accounts with their passwords, all or none; ``StoreError`` if one is there already."""
        rows = []
        for account, password in accounts:
            if password is not None and not 0 < len(password.reveal()) <= MAX_PASSWORD:
                raise StoreError(f"{account.name}: a password has 1 to {MAX_PASSWORD} characters")
            if password is None and not account.subject:
                raise StoreError(f"{account.name}: neither a password nor an OpenID subject: nobody could log in")
            kept = await self._passwords.hash(password) if password is not None else None
            rows.append(_values(account) | {"password": kept})
        try:
            async with self._database.transaction() as connection:
                for row in rows:
                    await connection.execute(sa.insert(users).values(row))
        except IntegrityError:
            raise StoreError(f"the user {row['name']} or its OpenID subject is in the store already") from None

    async def remove(self, name: str) -> None:
        """Remove an account; ``StoreError`` if there is none."""
        async with self._database.transaction() as connection:
            result = await connection.execute(sa.delete(users).where(users.c.name == normal_name(name)))
            if not result.rowcount:
                raise StoreError(f"there is no user {normal_name(name)}")

    async def accounts(self) -> list[Account]:
        """Return all accounts by name."""
        async with self._database.transaction() as connection:
            return [_account(row) for row in await connection.execute(sa.select(users).order_by(users.c.name))]

    async def close(self) -> None:
        """See ``IdentityStore``."""
        await self._database.close()

    async def _row(self, where: sa.ColumnElement[bool]) -> Any:
        async with self._database.transaction() as connection:
            return (await connection.execute(sa.select(users).where(where))).first()

    async def _keep(self, name: str, old: str, new: str) -> None:
        """Replace a hash, unless the password was changed meanwhile; the log-in does not depend on it."""
        change = sa.update(users).where(users.c.name == name, users.c.password == old).values(password=new)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(change)
        except StoreUnavailableError as error:
            _log.warning("a password stays hashed with old parameters: %s", error)


def _values(account: Account) -> dict[str, Any]:
    own = account.identities
    return {
        "name": account.name,
        "issuer": account.issuer or None,
        "subject": account.subject or None,
        "impi": str.__str__(own.impi) if own else None,
        "impus": [str.__str__(impu) for impu in own.impus] if own else None,
        "display": own.display if own else "",
        "range": account.range,
        "registration": account.registration,
    }


def _account(row: Any) -> Account:
    own = None
    if not row.range:
        own = ImsIdentities(Identity(row.impi), tuple(Identity(impu) for impu in row.impus), row.display)
    return Account(row.name, own, row.range, row.registration, row.issuer or "", row.subject or "")
