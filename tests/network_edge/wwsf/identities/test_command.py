"""``imsbridge edge wwsf user``: passwords come from the standard input, never from the command line [A-WWSF]."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from imsbridge.cli import main
from imskit.secrets import Secret
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.identities.sql import SqlStore

IMPU = "sip:+15550300@ims.example"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "wwsf.toml"
    path.write_text(
        'portal = "p.example"\nwebsocket = "wss://w.example/sip"\ncertificate = "c"\nkey = "k"\nhss = "h"\n'
        '[turn]\nsecret = "s"\nuris = ["turn:t.example"]\n'
        f'[tokens]\naudience = "ep-cscf.example"\nkeys = "{tmp_path}/keys.json"\n'
        f'[identities]\ndatabase = "sqlite:///{tmp_path}/w.db"\n[[identities.ranges]]\nname = "guests"\n'
        'wildcard = "sip:guest!.*!@ims.example"\nimpi = "guest{}@ims.example"\nfirst = 0\nlast = 9\n'
    )
    path.chmod(0o600)
    return path


def user(config: Path, action: str, *arguments: str) -> int:
    return main(["edge", "wwsf", "user", action, "-c", str(config), *arguments])


def logs_in(config: Path, name: str, password: str) -> bool:
    async def ask() -> bool:
        store = SqlStore(Database(Secret(f"sqlite:///{config.parent}/w.db")))
        account = await store.log_in(name, Secret(password))
        await store.close()
        return account is not None

    return asyncio.run(ask())


def test_add_list_remove(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("pass word \nrest"))
    assert user(config, "add", "Alice", "--impi", "alice@ims.example", "--impu", IMPU, "--impu", "tel:+15550300") == 0
    assert logs_in(config, "alice", "pass word ")
    assert not logs_in(config, "alice", "pass word")
    assert user(config, "list") == 0
    shown = capsys.readouterr().out
    assert "alice" in shown
    assert "range guests: 0 of 10 in use" in shown
    assert "+15550300" not in shown
    assert user(config, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["users"][0]["impus"] == [IMPU, "tel:+15550300"]
    monkeypatch.setattr("sys.stdin", io.StringIO("again\n"))
    assert user(config, "add", "alice", "--range", "guests") == 1
    assert "already" in capsys.readouterr().err
    assert user(config, "remove", "ALICE") == 0
    assert user(config, "remove", "alice") == 1
    assert not logs_in(config, "alice", "pass word ")


def test_wrong_arguments(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        (("--range", "none"), "there is no range none"),
        (("--impi", "a@b"), "at least one public identity"),
        (("--impi", "a@b", "--impu", "tel:+1"), "must be a SIP URI"),
        (("--range", "guests", "--impu", IMPU), "either"),
        (("--range", "guests", "--issuer", "https://id.example"), "come together"),
        (("--range", "guests", "--registration", "digest"), "no SIP password"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
        assert user(config, "add", "bob", *arguments) == 2
        assert text in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert user(config, "add", "bob", "--range", "guests") == 1
    assert "1 to 1024 characters" in capsys.readouterr().err


def test_import(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    heading = "name,password,impi,impus,range,issuer,subject\n"
    good = heading + f'ann,"p,1",ann@ims.example,{IMPU} tel:+1,,,\nben,,,,guests,https://id.example,b-1\n'
    file = config.parent / "users.csv"
    for broken, text in (
        (good + "cid,p,cid@ims.example,,,,\n", "line 4: at least one public"),
        (good + "ann,p,,,guests,,\n", "ann or its"),
        ("user,password\n", "the first line"),
        (good + '"open', "line 3: unexpected end"),
    ):
        file.write_text(broken)
        assert user(config, "import", str(file)) in (1, 2)
        assert text in capsys.readouterr().err
        assert not logs_in(config, "ann", "p,1")
    monkeypatch.setattr("sys.stdin", io.StringIO(good))
    assert user(config, "import", "-") == 0
    assert logs_in(config, "ann", "p,1")
    assert user(config, "import", str(config.parent / "none.csv")) == 1


def test_the_store_cannot_be_opened(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "w.db").write_text("this is no database, but it has more than a hundred characters" * 4)
    assert user(config, "list") == 1
    assert "not a database" in capsys.readouterr().err
