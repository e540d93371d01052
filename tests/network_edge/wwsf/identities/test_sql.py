"""Accounts and ranges in SQL: passwords, races, faults [A-WWSF, A-REG3]."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import argon2
import pytest

from imskit.secrets import Secret
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.leases import Leases
from network_edge.wwsf.identities.model import (
    Account,
    RangeExhaustedError,
    StoreError,
    StoreUnavailableError,
    identities,
    normal_name,
)
from network_edge.wwsf.identities.passwords import Passwords
from network_edge.wwsf.identities.ranges import RangeConfig
from network_edge.wwsf.identities.sql import SqlStore

QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
ALICE = Account("alice", identities("alice@ims.example", ["sip:+15550300@ims.example", "tel:+15550300"], "Alice"))
GUESTS = RangeConfig("guests", "sip:guest!.*!@ims.example", "guest{}@ims.example", 7, 11, digits=3)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> str:
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    place = tmp_path_factory.mktemp("pg")
    place.chmod(0o777)
    place.parent.chmod(0o755)
    place.parent.parent.chmod(0o755)
    user = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    data = place / "data"
    subprocess.run(
        [*user, binaries[-1] / "initdb", "-D", data, "-U", "wwsf", "--auth=trust"], check=True, capture_output=True
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*user, binaries[-1] / "pg_ctl", "-D", data]
    subprocess.run([*control, "-w", "-o", options, "-l", place / "log", "start"], check=True, capture_output=True)
    yield f"postgresql://wwsf@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
    shutil.rmtree(data)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}/w.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    database = Database(Secret(url))
    yield database
    async with database.transaction() as connection:
        for table in ("users", "leases", "revocations"):
            await connection.exec_driver_sql(f"DELETE FROM {table}")
    await database.close()


async def test_log_in(database: Database) -> None:
    """A-WWSF: the account, for the right password only; names fold case and width."""
    store = SqlStore(database, Passwords(QUICK))
    await store.add([(ALICE, Secret("right"))])
    assert await store.log_in(" ALICE", Secret("right")) == ALICE
    assert await store.log_in("ａlice", Secret("right")) == ALICE
    for name, password in (("alice", "wrong"), ("alice", ""), ("bob", "right"), ("", "right"), ("a b", "right")):
        assert await store.log_in(name, Secret(password)) is None
    assert await store.log_in("alice", Secret("x" * 5000)) is None
    await store.check()


async def test_adding_is_all_or_nothing(database: Database) -> None:
    store = SqlStore(database, Passwords(QUICK))
    await store.add([(ALICE, Secret("one"))])
    bob = Account("bob", identities("bob@ims.example", ["sip:bob@ims.example"]))
    with pytest.raises(StoreError, match="alice"):
        await store.add([(bob, Secret("two")), (ALICE, Secret("three"))])
    assert await store.accounts() == [ALICE]
    assert await store.log_in("alice", Secret("one")) == ALICE
    with pytest.raises(StoreError, match="nobody could log in"):
        await store.add([(bob, None)])
    await store.remove("Alice")
    with pytest.raises(StoreError, match="no user"):
        await store.remove("alice")


async def test_by_subject(database: Database) -> None:
    store = SqlStore(database, Passwords(QUICK))
    carol = Account("carol", None, range="guests", issuer="https://id.example", subject="c-1")
    await store.add([(carol, None)])
    assert await store.by_subject("https://id.example", "c-1") == carol
    assert await store.by_subject("https://evil.example", "c-1") is None
    assert await store.log_in("carol", Secret("nobody's password")) is None  # what the decoy is the hash of


async def test_rehash_when_the_parameters_change(database: Database) -> None:
    await SqlStore(database, Passwords(QUICK)).add([(ALICE, Secret("right"))])
    stronger = argon2.PasswordHasher(time_cost=2, memory_cost=128, parallelism=1)
    assert await SqlStore(database, Passwords(stronger)).log_in("alice", Secret("right")) == ALICE
    async with database.transaction() as connection:
        kept = (await connection.exec_driver_sql("SELECT password FROM users")).scalar_one()
    assert argon2.extract_parameters(kept).time_cost == 2
    assert await SqlStore(database, Passwords(stronger)).log_in("alice", Secret("right")) == ALICE


async def test_unknown_users_cost_the_same(database: Database) -> None:
    """The same number of argon2 verifications, with the same parameters, whoever asks."""
    seen: list[str] = []

    class Counting(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:
            seen.append(str(argon2.extract_parameters(str(hash))))
            return bool(super().verify(hash, password))

    store = SqlStore(database, Passwords(Counting(time_cost=1, memory_cost=64, parallelism=1)))
    await store.add([(ALICE, Secret("right"))])
    for name, password in (("alice", "wrong"), ("bob", "wrong"), ("no name", "wrong"), ("alice", "")):
        await store.log_in(name, Secret(password))
    assert len(seen) == 4
    assert len(set(seen)) == 1


# ---- ranges ------------------------------------------------------------------------------------------------------


async def test_an_identity_is_drawn_kept_and_returned(database: Database) -> None:
    """A-REG3: kept while in use, given back, and nobody else's meanwhile; it survives a restart."""
    now = 1000.0
    leases = Leases(database, [GUESTS], lambda: now, 30)
    mine = await leases.draw("guests", "ann", 1100)
    assert GUESTS.covers(mine.impus[0])
    assert mine.impi == mine.impus[0].removeprefix("sip:")
    assert await leases.draw("guests", "ann", 1050) == mine
    others = [await leases.draw("guests", f"user {i}", 1100) for i in range(4)]
    assert len({mine.impi, *(other.impi for other in others)}) == 5
    assert await leases.used() == {"guests": (5, 5)}
    with pytest.raises(RangeExhaustedError, match="in use"):
        await leases.draw("guests", "late", 1100)
    assert await Leases(database, [GUESTS], lambda: now, 30).draw("guests", "ann", 1100) == mine
    await leases.release("guests", "ann")
    with pytest.raises(RangeExhaustedError):  # tokens that name it may still count
        await leases.draw("guests", "late", 1100)
    assert await leases.draw("guests", "ann", 1020) == mine
    now = 1031.0
    assert await leases.draw("guests", "late", 1100) == mine
    now = 1100.0
    assert await leases.used() == {"guests": (0, 5)}
    await leases.draw("guests", "ann", 1200)


async def test_many_at_once_draw_different_identities(database: Database) -> None:
    """A-REG3: 40 at once for 40 identities: each gets one, the next is refused."""
    many = RangeConfig("many", "sip:g![0-9]+!@ims.example", "shared@ims.example", 0, 39, digits=2)
    leases = Leases(database, [many], time.time, 30)
    until = time.time() + 60
    drawn = await asyncio.gather(*(leases.draw("many", f"user {i}", until) for i in range(40)))
    assert len({item.impus[0] for item in drawn}) == 40
    assert {item.impi for item in drawn} == {"shared@ims.example"}
    with pytest.raises(RangeExhaustedError):
        await leases.draw("many", "one more", until)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"wildcard": "sip:guest@ims.example"}, "regular expression"),
        ({"wildcard": "sip:guest!(a+)+!@ims.example"}, "the expression must be"),
        ({"wildcard": "sip:guest![0-9]{2}!@ims.example"}, "does not match"),
        ({"first": 5, "last": 4}, "ascending"),
        ({"last": 1000}, "ascending"),
        ({"impi": "guest"}, "private identity"),
    ],
)
def test_wrong_ranges(change: dict[str, object], text: str) -> None:
    fields: dict[str, object] = {
        "name": "g",
        "wildcard": "sip:guest!.*!@ims.example",
        "impi": "g{}@ims.example",
        "first": 0,
        "last": 9,
        "digits": 3,
    }
    with pytest.raises(ValueError, match=text):
        RangeConfig(**(fields | change))  # type: ignore[arg-type]


def test_what_a_range_covers() -> None:
    """A-REG3: no identity beside the range is taken for one of it."""
    from imskit.secrets import Identity

    assert GUESTS.covers(Identity("sip:guest007@ims.example"))
    beside = ["guest012@ims.example", "guest7@ims.example", "guest007@evil.example", "guest@ims.example"]
    for impu in (*beside, "guest٠٠٧@ims.example", "guest007@ims.example;x@ims.example"):
        assert not GUESTS.covers(Identity(f"sip:{impu}"))


# ---- faults ------------------------------------------------------------------------------------------------------


async def test_a_locked_store(tmp_path: Path) -> None:
    """Locked by another program: refused clearly, nothing lost, and it works again after."""
    database = Database(Secret(f"sqlite:///{tmp_path}/w.db"))
    store = SqlStore(database, Passwords(QUICK))
    await store.add([(ALICE, Secret("right"))])
    holder = sqlite3.connect(tmp_path / "w.db")
    holder.execute("BEGIN EXCLUSIVE")
    leases = Leases(database, [GUESTS], time.time, 30)
    with pytest.raises(StoreUnavailableError, match="locked"):
        await leases.draw("guests", "ann", time.time() + 60)
    assert await store.log_in("alice", Secret("right")) == ALICE  # readers are not in the way of a writer
    holder.rollback()
    holder.close()
    assert await leases.draw("guests", "ann", time.time() + 60)
    await database.close()


async def test_a_full_store(tmp_path: Path) -> None:
    """No space left (a limit of the file's size stands for it): refused, nothing half written."""
    database = Database(Secret(f"sqlite:///{tmp_path}/w.db"))
    store = SqlStore(database, Passwords(QUICK))
    await store.add([(ALICE, Secret("right"))])
    async with database.transaction() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    many = [
        (Account(f"user{i}", identities(f"u{i}@ims.example", [f"sip:{'x' * 100}{i}@ims.example"] * 9)), Secret("p"))
        for i in range(20)
    ]
    with pytest.raises(StoreUnavailableError, match="full"):
        await store.add(many)
    assert await store.accounts() == [ALICE]
    await database.close()


async def test_an_unreachable_store(tmp_path: Path) -> None:
    for url in ("postgresql://wwsf:geheim@127.0.0.1:1/x", f"sqlite:///{tmp_path}/not/there/w.db"):
        database = Database(Secret(url))
        with pytest.raises(StoreUnavailableError) as caught:
            await SqlStore(database, Passwords(QUICK)).log_in("alice", Secret("right"))
        assert "geheim" not in str(caught.value) + database.place
        await database.close()


async def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    database = Database(Secret(f"sqlite:///{tmp_path}/w.db"))
    await SqlStore(database, Passwords(QUICK)).check()
    modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
    assert set(modes.values()) == {0o600}, modes
    await database.close()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://x/y", "sqlite://"])
def test_no_database(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|databases|SQLite"):
        Database(Secret(url))


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 255, "a\x00b", "a\nb"])
def test_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="user name"):
        normal_name(name)


@pytest.mark.parametrize(
    ("impi", "impus"),
    [
        ("alice", ["sip:a@x"]),
        ("a@x", []),
        ("a@x", ["tel:+1"]),
        ("a@x", ["sip:a@x\r\nEvil: yes"]),
        ('a@x"', ["sip:a@x"]),
        ("a@x", ["sip:a@x>;evil"]),
    ],
)
def test_no_identities(impi: str, impus: list[str]) -> None:
    """What would break out of a SIP header is no identity."""
    with pytest.raises(ValueError, match=r"identity|SIP URI"):
        identities(impi, impus)
