"""The network's side: key files, vectors good and bad, answers taken apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from imskit.aka.sqn import SqnArray, join
from imskit.aka.vector import MacFailure, Success, SyncFailure, Usim
from imskit.config.model import ConfigError, sample
from imskit.secrets import Secret
from ue_agent.card_bench.lab_hss import LabHss, LabKeys, load_keys

K = "465b5ce8b199b49faa5f0a2ee238a6bc"
OPC = "cd63cb71954a9f4e48a5994e37a02baf"


def hss(**fields: object) -> LabHss:
    return LabHss(LabKeys(**{"k": Secret(K), "opc": Secret(OPC), **fields}))  # type: ignore[arg-type]


def write(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_vectors() -> None:
    network, usim = hss(), Usim(hss().algorithms, SqnArray([join(70, 1)]))
    first = network.vector()
    behind = usim.verify(first.rand, first.autn)
    assert isinstance(behind, SyncFailure)
    auts = network.read(first.rand, behind)
    assert (auts.sqn_ms, auts.seq, auts.ind) == (join(70, 1), 70, 1)
    network.resynchronise(auts)
    good = network.vector()
    result = usim.verify(good.rand, good.autn)
    assert isinstance(result, Success) and network.right(good, result) and network.right_for(good.rand, result)
    parts = network.read_autn(good.rand, good.autn)
    assert (parts.seq, parts.ind, parts.amf, parts.mac_ok) == (71, 2, b"\0\0", True)
    again, forged = network.used_again(), network.forged()
    assert isinstance(usim.verify(again.rand, again.autn), SyncFailure)
    assert usim.verify(forged.rand, forged.autn) == MacFailure()
    assert not network.read_autn(forged.rand, forged.autn).mac_ok


def test_answers_of_another_card() -> None:
    network, other = hss(), hss(opc=Secret(K))
    vector, used = network.vector(), other.vector()
    failure = Usim(other.algorithms, SqnArray([join(70, 1)])).verify(used.rand, used.autn)
    assert isinstance(failure, SyncFailure)
    auts = network.read(used.rand, failure)
    assert auts.sqn_ms is auts.seq is None
    network.resynchronise(auts)
    assert network.read_autn(vector.rand, network.vector().autn).seq != 71
    keys = other.algorithms.f2345(vector.rand)
    assert not network.right(vector, Success(keys.res, keys.ck, keys.ik))


def test_key_files(tmp_path: Path) -> None:
    found = load_keys(write(tmp_path, f'k = "{K}"\nopc = "{OPC}"\namf = "8000"\n[numbers]\nind_bits = 6\n'))
    network = LabHss(found)
    vector = network.vector()
    parts = network.read_autn(vector.rand, vector.autn)
    assert (parts.sqn, parts.seq, parts.ind, parts.amf) == (65, 1, 1, b"\x80\x00")
    assert K not in repr(found)
    assert "k = " in sample(LabKeys)


def test_a_simulated_cards_file_will_do(tmp_path: Path) -> None:
    card = f'imsi = "001010000000001"\nalgorithm = "tuak"\nk = "{K}"\nopc = "{OPC * 2}"\n[numbers]\nind_bits = 3\n'
    found = load_keys(write(tmp_path, card))
    assert (found.algorithm, found.numbers.ind_bits) == ("tuak", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k = 1", "k: must be a text"),
        (f'k = "{K}"', "give either opc or op"),
        (f'k = "{K}"\nopc = "{OPC}"\namf = "0"', "amf must have 4 hex digits"),
        (f'k = "{K}x"\nopc = "{OPC}"', "k must have 32 hex digits"),
        ("k = ", "not valid TOML"),
        (f'kk = "{K}"', "did you mean 'k'"),
    ],
)
def test_mistakes_in_key_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_keys(write(tmp_path, text))
    assert K not in str(error.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_files_of_others_eyes(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, f'k = "{K}"\nopc = "{OPC}"\n', mode)
    with pytest.raises(ConfigError, match=f"others may get at it. Run: chmod 600 {path}"):
        load_keys(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_keys(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is no file"):
        load_keys(tmp_path)
