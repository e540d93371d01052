"""The SQL database of the WWSF: accounts, identities drawn from ranges, ended log-ins.

SQLite by default (``sqlite:///wwsf.db``), PostgreSQL by URL (``postgresql://user:password@host/name``).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from imskit.secrets import Secret
from network_edge.wwsf.identities.model import StoreUnavailableError

_BUSY_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}

metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(254), primary_key=True),
    sa.Column("password", sa.String(512)),
    sa.Column("issuer", sa.String(1024)),
    sa.Column("subject", sa.String(255)),
    sa.Column("impi", sa.String(380)),
    sa.Column("impus", sa.JSON),
    sa.Column("display", sa.String(254), nullable=False),
    sa.Column("range", sa.String(64), nullable=False),
    sa.Column("registration", sa.String(16), nullable=False),
    sa.UniqueConstraint("issuer", "subject"),
)
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("range", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("holder", sa.String(1400), nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.UniqueConstraint("range", "holder"),
)
revocations = sa.Table(
    "revocations",
    metadata,
    sa.Column("sid", sa.String(64), primary_key=True),
    sa.Column("expires", sa.Double, nullable=False),
)


class Database:
    """One pool of connections.  What goes wrong is a ``StoreUnavailableError``; nothing is half written."""

    def __init__(self, url: Secret[str]) -> None:
        """``url`` may hold a password; ``ValueError`` if it is no URL of a database that is known here."""
        try:
            parsed = sa.make_url(url.reveal())
        except ArgumentError:
            raise ValueError("the database must be a URL such as sqlite:///wwsf.db") from None
        backend = parsed.drivername.partition("+")[0]
        if backend not in _DRIVERS:
            raise ValueError(f"databases of the kind {backend} are not known here: sqlite or postgresql")
        self._file = Path(parsed.database) if backend == "sqlite" and parsed.database else None
        if backend == "sqlite" and self._file is None:
            raise ValueError("SQLite needs a file: sqlite:///wwsf.db")
        arguments = {"timeout": _BUSY_SECONDS} if backend == "sqlite" else {"timeout": _ANSWER_SECONDS}
        self.place = f"{backend} database {parsed.database}" + (f" on {parsed.host}" if parsed.host else "")
        """Kind, name and host for messages; no password."""
        try:
            self._engine = create_async_engine(
                parsed.set(drivername=_DRIVERS[backend]),
                connect_args=arguments,
                pool_timeout=_ANSWER_SECONDS,
                pool_pre_ping=backend != "sqlite",
                hide_parameters=True,
            )
        except ModuleNotFoundError as error:
            raise ValueError(f"PostgreSQL needs the Python package {error.name}") from None
        if backend == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)
        self._ready = False
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection whose changes are kept together, at the end, or not at all.

        ``IntegrityError`` of SQLAlchemy passes through: it is an answer of the store, not its failure.
        """
        try:
            async with asyncio.timeout(_ANSWER_SECONDS + _BUSY_SECONDS):
                await self._prepare()
                async with self._engine.begin() as connection:
                    yield connection
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            cause = getattr(error, "orig", None) or error
            text = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
            raise StoreUnavailableError(f"the {self.place} cannot be used: {text[:200]}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def _prepare(self) -> None:
        async with self._lock:
            if self._ready:
                return
            if self._file is not None:
                # Made here so that nobody else may ever read it: it holds hashes of passwords and identities.
                os.close(os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600))
            async with self._engine.begin() as connection:
                await connection.run_sync(metadata.create_all)
            self._ready = True


def _set_up_sqlite(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    # Readers and the command line do not block the server; a commit is on the disk before it is answered.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={int(_BUSY_SECONDS * 1000)}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
