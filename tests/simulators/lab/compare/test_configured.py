"""X-COMPARE: the file of ``imsbridge compare --against``: what it means, and what is said of a wrong one."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from pathlib import Path as File

import pytest

from imsbridge.cli import main
from imskit.config.model import ConfigError
from simulators.lab.compare.configured import ConfiguredSystem, _processes, read_systems
from simulators.lab.compare.model import Conditions, Path
from simulators.lab.compare.traffic import ESP, Rule
from simulators.lab.world import LabError

BOTH = """
name = "Munich"
number = "+15550200"
[ue]
portal = "https://portal.example/"
[[ue.points]]
point = "Gm"
address = "10.45.0.1"
protocols = ["esp"]
[edge]
portal = "https://edge.example/"
user = "alice"
password = "open sesame"
proxy = "direct"
"""
PHONE = """
impi = "alice@ims.example"
impus = ["sip:alice@ims.example"]
domain = "ims.example"
k = "465b5ce8b199b49faa5f0a2ee238a6bc"
opc = "cd63cb71954a9f4e48a5994e37a02baf"
address = "127.0.0.1"
p_cscf = "127.0.0.1:5060"
"""


def written(folder: File, text: str, name: str = "mine.toml") -> File:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_paths_and_their_settings(tmp_path: File) -> None:
    config = read_systems(written(tmp_path, BOTH))
    assert config.paths == [Path.UE, Path.EDGE]
    assert config.ue is not None
    assert config.edge is not None
    assert config.ue.flags() == []
    assert config.edge.flags() == ["--no-proxy-server"]
    assert config.ue.points[0].rule() == Rule("Gm", "10.45.0.1", protocols=(ESP,))
    assert "sesame" not in repr(config)


@pytest.mark.parametrize(
    ("proxy", "flag"),
    [
        ("127.0.0.1:8080", "--proxy-server=127.0.0.1:8080"),
        ("http://127.0.0.1:8089/proxy.pac", "--proxy-pac-url=http://127.0.0.1:8089/proxy.pac"),
    ],
)
def test_proxy(tmp_path: File, proxy: str, flag: str) -> None:
    config = read_systems(written(tmp_path, BOTH.replace('"direct"', f'"{proxy}"')))
    assert config.edge is not None
    assert config.edge.flags() == [flag]


def test_a_trusted_certificate_is_named_by_its_key(tmp_path: File) -> None:
    pem = tmp_path / "edge.pem"
    key = tmp_path / "edge.key"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*argv, "-subj", "/CN=edge", "-out", pem, "-keyout", key], check=True, capture_output=True)
    public = subprocess.run(
        ["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout
    wanted = base64.b64encode(hashlib.sha256(public).digest()).decode()
    config = read_systems(written(tmp_path, BOTH.replace("proxy =", f'trust = "{pem}"\nproxy =')))
    assert config.edge is not None
    assert f"--ignore-certificate-errors-spki-list={wanted}" in config.edge.flags()
    pem.write_text("nothing")
    with pytest.raises(LabError, match=r"trust: .*edge\.pem"):
        config.edge.flags()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("https://edge", "http://edge", "portal must be an https URL"),
        ('user = "alice"', 'user = ""', "user and password belong together"),
        ('"Gm"', '"W1"', "the browser counts"),
        ('["esp"]', '["sctp"]', "protocols must be some of"),
        ("number", "numbr", "did you mean 'number'"),
        ("[ue]", "[eu]", "unknown key"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: File, old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, BOTH.replace(old, new))
    assert main(["compare", "--against", str(path)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert str(path) in told
    assert "sesame" not in told


def test_a_path_is_needed(tmp_path: File, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, BOTH[: BOTH.index("[ue]")])
    assert main(["compare", "--against", str(path)]) == 2
    assert "[ue], [edge] or both" in capsys.readouterr().err
    path = written(tmp_path, BOTH[: BOTH.index("[edge]")])
    assert main(["compare", "--against", str(path), "--path", "edge"]) == 2
    assert "[edge] is missing" in capsys.readouterr().err


def test_the_lab_alone_is_impaired(tmp_path: File, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, BOTH)
    assert main(["compare", "--against", str(path), "--impairment", "loss=1%"]) == 2
    assert "--impairment is the lab's" in capsys.readouterr().err


async def test_a_phone_that_cannot_tell_is_refused(tmp_path: File) -> None:
    phone = written(tmp_path, PHONE, "phone.toml")
    config = read_systems(written(tmp_path, BOTH.replace("[ue]", f'phone = "{phone}"\n[ue]')))
    with pytest.raises(ConfigError, match="control, events, play, record: needed"):
        ConfiguredSystem(config, tmp_path, lambda text: None)
    files = "".join(f'{name} = "{tmp_path}/{name}"\n' for name in ("control", "events", "play", "record"))
    written(tmp_path, PHONE + files, "phone.toml")
    with pytest.raises(ConfigError, match="loop: must be true"):
        ConfiguredSystem(config, tmp_path, lambda text: None)
    written(tmp_path, f"{PHONE}{files}loop = true\n", "phone.toml")
    system = ConfiguredSystem(config, tmp_path, lambda text: None)
    assert system.phone is not None
    assert system.phone.recording == tmp_path / "record"
    with pytest.raises(LabError, match="start `imsbridge sim phone run`"):
        async with system.open([Path.UE], Conditions()):
            pass


def test_elements_are_found_by_their_command_line() -> None:
    script = "print('up', flush=True); import sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "a-word-of-this-test-alone"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = _processes({"agent": "a-word-of-this-test-alone", "other": "no-such-program-anywhere"})
        assert found == {"agent": child.pid}
        assert child.stdin is not None
        child.stdin.close()
