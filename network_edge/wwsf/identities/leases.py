"""Who has which identity of a range, and until when."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from network_edge.wwsf.identities.database import Database, leases
from network_edge.wwsf.identities.model import ImsIdentities, RangeExhaustedError, StoreUnavailableError
from network_edge.wwsf.identities.ranges import RangeConfig

_log = logging.getLogger(__name__)

_TRIES = 20


class Leases:
    """Identities drawn from ranges; they survive a restart.  ``today`` is universal time in seconds."""

    def __init__(
        self, database: Database, ranges: Sequence[RangeConfig], today: Callable[[], float], rest: float
    ) -> None:
        """``rest``: seconds for which an identity that was given back goes to nobody else.

        Tokens that name it count as long: whoever had it could still register and be called as its next holder.
        """
        self._rest = rest
        self._database = database
        self._ranges = {item.name: item for item in ranges}
        self._today = today

    async def draw(self, name: str, holder: str, until: float) -> ImsIdentities:
        """Return the holder's identity of the range: the one it has, else a free one; kept ``until`` then.

        ``RangeExhaustedError`` if all are in use, ``StoreUnavailableError`` if the store fails.
        """
        item = self._ranges.get(name)
        if item is None:
            raise StoreUnavailableError(f"the range {name} of this account is not configured here")
        for _ in range(_TRIES):
            try:
                async with self._database.transaction() as connection:
                    number = await self._take(connection, item, holder, until)
            except IntegrityError:
                continue  # somebody else took that number in the same moment
            if number is None:
                _log.warning("the range %s is exhausted: all %d identities are in use", name, item.size)
                raise RangeExhaustedError(f"all identities of the range {name} are in use; try again later")
            return item.identities(number)
        raise StoreUnavailableError(f"too many log-ins at once take identities of the range {name}")

    async def release(self, name: str, holder: str) -> None:
        """Give the holder's identity back; it rests before anybody else draws it, its holder may have it again."""
        until = self._today() + self._rest
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.update(leases)
                .where(leases.c.range == name, leases.c.holder == holder, leases.c.expires > until)
                .values(expires=until)
            )

    async def used(self) -> dict[str, tuple[int, int]]:
        """Return how many identities of each range are in use, and how many there are."""
        counted = (
            sa.select(leases.c.range, sa.func.count()).where(leases.c.expires > self._today()).group_by(leases.c.range)
        )
        async with self._database.transaction() as connection:
            found = {row[0]: int(row[1]) for row in await connection.execute(counted)}
        return {name: (found.get(name, 0), item.size) for name, item in self._ranges.items()}

    async def _take(self, connection: AsyncConnection, item: RangeConfig, holder: str, until: float) -> int | None:
        within = (leases.c.range == item.name, leases.c.number.between(item.first, item.last))
        # Also takes SQLite's write lock, so that what follows is decided by one at a time.
        await connection.execute(
            sa.delete(leases).where(leases.c.range == item.name, leases.c.expires <= self._today())
        )
        mine = (
            await connection.execute(
                sa.select(leases.c.number, leases.c.expires).where(*within, leases.c.holder == holder)
            )
        ).first()
        if mine is not None:
            await connection.execute(
                sa.update(leases)
                .where(*within, leases.c.holder == holder)
                .values(expires=max(until, float(mine.expires)))
            )
            return int(mine.number)
        number = await self._free(connection, item)
        if number is not None:
            # A number of another range's limits may be left over from an older configuration.
            await connection.execute(sa.delete(leases).where(leases.c.range == item.name, leases.c.holder == holder))
            await connection.execute(
                sa.insert(leases).values(range=item.name, number=number, holder=holder, expires=until)
            )
        return number

    async def _free(self, connection: AsyncConnection, item: RangeConfig) -> int | None:
        """Return the first free number from a random one on, so that a returned identity is not soon another's."""
        start = item.first + secrets.randbelow(item.size)
        for first, last in ((start, item.last), (item.first, start - 1)):
            if first > last:
                continue
            here = sa.select(leases.c.number).where(leases.c.range == item.name, leases.c.number == first)
            if (await connection.execute(here)).first() is None:
                return first
            after = leases.alias("after")
            taken = sa.exists().where(after.c.range == item.name, after.c.number == leases.c.number + 1)
            gap = sa.select(sa.func.min(leases.c.number) + 1).where(
                leases.c.range == item.name, leases.c.number.between(first, last - 1), ~taken
            )
            number = (await connection.execute(gap)).scalar()
            if number is not None:
                return int(number)
        return None
