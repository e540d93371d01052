"""Configuration: strict, with errors that name file, line, key and cure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from imskit.config.model import ConfigError, load, parse, sample, setting
from imskit.secrets import Secret


@dataclass(frozen=True)
class Listen:
    """Where to listen."""

    address: str = setting("IP address", "127.0.0.1")
    port: int = setting("port, 0 for any", 0)


@dataclass(frozen=True)
class Model:
    """A service."""

    name: str = setting("the service's name")
    mode: Literal["fast", "safe"] = setting("how", "safe")
    hosts: list[str] = setting("names", factory=list)
    share: float = setting("0 to 1", 0.5)
    password: Secret[str] | None = setting("password", None)
    listen: Listen = setting("where", factory=Listen)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {self.share}")


def test_values_and_defaults() -> None:
    model = parse(Model, 'name = "a"\nshare = 1\nhosts = ["x"]\n[listen]\nport = 5\n')
    assert model == Model("a", hosts=["x"], share=1.0, listen=Listen(port=5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "a"\nmdoe = "fast"', "f:2: mdoe: unknown key; did you mean 'mode'?"),
        ("", "f: name: is missing: the service's name"),
        ('name = "a"\nmode = "slow"', "f:2: mode: must be one of 'fast', 'safe', not 'slow'"),
        ('name = "a"\n[listen]\nport = "80"', "f:3: listen.port: must be a whole number, not a text"),
        ('name = "a"\nlisten = 3', "f:2: listen: must be a table, not a whole number"),
        ('name = "a"\nhosts = [1]', "f:2: hosts.0: must be a text, not a whole number"),
        ('name = "a"\nshare = 2', "f: the file: share must be from 0 to 1, not 2.0"),
        ("name = ", "f: not valid TOML"),
        ("name = true", "f:1: name: must be a text, not true or false"),
    ],
)
def test_mistakes_are_named(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Model, text, "f")
    assert str(caught.value).startswith(expected)


def test_a_readable_file_with_a_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('name = "a"\npassword = "geheim"\n')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod o-r") as caught:
        load(Model, path)
    assert "geheim" not in str(caught.value)
    path.chmod(0o600)
    assert load(Model, path).password == Secret("geheim")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load(Model, tmp_path / "none.toml")


def test_the_sample_is_valid_once_filled_in() -> None:
    text = sample(Model)
    assert "# the service's name" in text
    assert '# mode = "safe"' in text
    filled = text.replace('name = ""', 'name = "a"')
    assert parse(Model, filled) == Model("a")
    assert parse(Model, filled.replace("# mode =", "mode =")).mode == "safe"
    with pytest.raises(ConfigError, match="name: is still empty: the service's name"):
        parse(Model, text)
