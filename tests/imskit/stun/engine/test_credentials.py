"""The long-term credential mechanism and the store (RFC 8489 9.2; S7-TURN)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest

from imskit.secrets import Secret
from imskit.stun.engine.credentials import ALGORITHMS, NONCE_LIFETIME, CredentialStore
from imskit.stun.wire import attributes as a
from imskit.stun.wire.message import Message, Method, request

type Code = Callable[[Message], int]


def test_challenge(client: Any, error_code: Code) -> None:
    """RFC 8489 9.2.4: REALM, a NONCE with the cookie and its bits, the algorithms best first, nothing else."""
    answer = client.challenge()
    assert error_code(answer) == 401
    assert answer.get(a.REALM) == "ims.example"
    nonce = answer.get(a.NONCE)
    assert nonce.startswith("obMatJos2")
    assert base64.b64decode(nonce[9:13]) == b"\xc0\0\0"  # password algorithms, user name anonymity
    assert [entry.number for entry in answer.get(a.PASSWORD_ALGORITHMS)] == [2, 1]
    for absent in (a.USERNAME, a.USERHASH, a.MESSAGE_INTEGRITY, a.MESSAGE_INTEGRITY_SHA256, a.SOFTWARE):
        assert absent not in answer


@pytest.mark.parametrize("algorithm", [None, 1, 2])
@pytest.mark.parametrize("hashed", [False, True])
def test_every_way_to_authenticate(
    bench: Any, make_client: Any, error_code: Code, algorithm: int | None, hashed: bool
) -> None:
    client = make_client(bench, algorithm=algorithm, hashed=hashed)
    assert error_code(client.allocate()) == 0
    assert error_code(client.permit("192.0.2.1")) == 0


@pytest.mark.parametrize(
    ("username", "password"), [("alice", "wrong"), ("mallory", "correct horse"), ("", "correct horse")]
)
@pytest.mark.parametrize("algorithm", [None, 2])
def test_wrong_credentials(
    bench: Any, make_client: Any, error_code: Code, username: str, password: str, algorithm: int | None
) -> None:
    client = make_client(bench, username=username, password=Secret(password), algorithm=algorithm)
    answer = client.allocate()
    assert error_code(answer) == 401
    assert answer.get(a.NONCE) and answer.get(a.REALM) and answer.get(a.PASSWORD_ALGORITHMS)
    assert not bench.server.has_allocation(client.flow)


@pytest.mark.parametrize("left_out", [a.USERNAME, a.REALM, a.NONCE])
def test_incomplete_credentials(bench: Any, client: Any, error_code: Code, left_out: a.Attribute[Any]) -> None:
    client.challenge()
    fields = [a.USERNAME("alice"), a.REALM("ims.example"), a.NONCE(client.nonce)]
    kept = [field for field in fields if field.code != left_out.code]
    answer = bench.exchange(client.flow, request(Method.ALLOCATE, client.tid(), kept).encode(sha1=client.key))
    assert error_code(answer) == 400
    assert a.NONCE not in answer and a.REALM not in answer


@pytest.mark.parametrize(
    "fields",
    [
        [a.PASSWORD_ALGORITHMS(ALGORITHMS)],
        [a.PASSWORD_ALGORITHM(ALGORITHMS[0])],
        [a.PASSWORD_ALGORITHMS(ALGORITHMS[1:]), a.PASSWORD_ALGORITHM(ALGORITHMS[1])],
        [a.PASSWORD_ALGORITHMS(ALGORITHMS), a.PASSWORD_ALGORITHM(a.PasswordAlgorithm(3))],
    ],
)
def test_bid_down_is_noticed(client: Any, error_code: Code, fields: list[a.Field]) -> None:
    """RFC 8489 9.2.4: who tampers with the list of algorithms gets 400."""
    assert error_code(client.call(Method.ALLOCATE, a.REQUESTED_TRANSPORT(17), *fields)) == 400


def test_stale_nonce(bench: Any, client: Any, error_code: Code) -> None:
    client.allocate(a.LIFETIME(3600))
    bench.advance(NONCE_LIFETIME - 10)
    assert error_code(client.call(Method.REFRESH, a.LIFETIME(3600))) == 0
    bench.advance(11)
    answer = client.call(Method.REFRESH)
    assert error_code(answer) == 438
    assert answer.get(a.REALM) and answer.get(a.PASSWORD_ALGORITHMS)
    client.nonce = answer.get(a.NONCE)
    assert error_code(client.call(Method.REFRESH)) == 0


def test_nonce_of_another_client_is_stale(bench: Any, client: Any, make_client: Any, error_code: Code) -> None:
    client.challenge()
    other = make_client(bench, port=4001)
    other.nonce = client.nonce
    assert error_code(other.allocate()) == 438


@pytest.mark.parametrize("nonce", ["x", "obMatJos2wAAA", "obMatJos2wAAAzzzzzzzz" + "0" * 20, "ü" * 41])
def test_invented_nonce_is_stale(client: Any, error_code: Code, nonce: str) -> None:
    client.nonce = nonce
    assert error_code(client.allocate()) == 438


def test_store_changes_at_run_time(make_bench: Any, make_client: Any, error_code: Code) -> None:
    store = CredentialStore("ims.example")
    bench = make_bench(store=store)
    client = make_client(bench)
    assert error_code(client.allocate()) == 401
    store.add("alice", client.password, expires=bench.now + 100)
    assert error_code(client.allocate()) == 0
    bench.advance(100)
    assert error_code(client.call(Method.REFRESH)) == 401
    store.add("alice", client.password)
    assert error_code(client.call(Method.REFRESH)) == 0
    store.remove("alice")
    store.remove("alice")
    assert error_code(client.call(Method.REFRESH)) == 401
    assert store.username_of(bytes(32)) is None


def test_time_limited_credentials(make_bench: Any, make_client: Any, error_code: Code) -> None:
    """What coturn calls the TURN REST API: the password is an HMAC of the user name with a shared secret."""
    start = 1_800_000_000
    store = CredentialStore("ims.example", rest_secret=Secret("north"), unix_time=lambda now: start + now - 1000)
    bench = make_bench(store=store)

    def rest(username: str, secret: bytes = b"north", **options: Any) -> Any:
        password = base64.b64encode(hmac.digest(secret, username.encode(), hashlib.sha1)).decode()
        return make_client(bench, username=username, password=Secret(password), **options)

    assert error_code(rest(f"{start + 60}:alice", port=1).allocate()) == 0
    assert error_code(rest(f"{start + 60}", port=2, algorithm=2).allocate()) == 0
    assert error_code(rest(f"{start + 60}:alice", b"south", port=3).allocate()) == 401
    for bad in (f"{start - 1}:alice", f"-{start}:x", "alice", "", "9" * 400, f"{start + 60}x:alice", "²:x"):
        assert error_code(rest(bad, port=4).allocate()) == 401, bad
    bench.advance(61)
    assert error_code(rest(f"{start + 60}:alice", port=5).allocate()) == 401
    nonce = rest("x", port=6).challenge().get(a.NONCE)
    assert base64.b64decode(nonce[9:13]) == b"\x80\0\0", "no anonymity where names are not known in advance"


def test_what_a_store_refuses() -> None:
    with pytest.raises(ValueError, match="realm"):
        CredentialStore("")
    with pytest.raises(ValueError, match="unix_time"):
        CredentialStore("r", rest_secret=Secret("s"))
    with pytest.raises(ValueError, match="user name"):
        CredentialStore("r").add("", Secret("p"))


def test_no_secret_in_logs(bench: Any, client: Any, caplog: pytest.LogCaptureFixture, error_code: Code) -> None:
    with caplog.at_level("DEBUG"):
        client.allocate()
        client.permit("10.0.0.1")
    assert "allocation" in caplog.text
    assert client.password.reveal() not in caplog.text
    assert client.key.reveal().hex() not in caplog.text
    assert "correct" not in repr(bench.store.__dict__)
