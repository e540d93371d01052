"""Strict TOML configuration from frozen dataclasses.

A dataclass is the model of a table: its annotations are checked, an unknown key is an error with a near miss as a
suggestion, and the sample file is generated from the same fields, so it cannot go stale.  Supported annotations:
``str``, ``int``, ``float``, ``bool``, ``Path``, ``Literal[...]``, ``list[...]``, ``dict[str, ...]``, ``Secret[str]``,
``T | None`` and other such dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import stat
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from imskit.secrets import Secret

type Where = tuple[str, ...]


class ConfigError(Exception):
    """What is wrong in a configuration, where (file, line, key), and what to do."""


def setting(help: str, default: Any = dataclasses.MISSING, *, factory: Callable[[], Any] | None = None) -> Any:
    """Declare a field with the text that the sample file shows above it."""
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


type Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Fills in what a file leaves out.  It gets the file's tables before anything of them has been checked."""


def load[T](model: type[T], path: Path, complete: Complete | None = None) -> T:
    """Read ``path`` into ``model``; ``ConfigError`` names file, line and key of the first mistake.

    A file that holds a secret must not be readable by others (mode 0600 or 0640).  ``complete`` gives settings that
    the file leaves out, a secret as a ``Secret``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    loader = _Loader(str(path), text)
    loaded = loader.table(model, value if complete is None else complete(value), ())
    if loader.saw_secret and path.stat().st_mode & stat.S_IROTH:
        raise ConfigError(f"{path}: holds a secret but everyone may read it. Run: chmod o-r {path}")
    return typing.cast(T, loaded)


def parse[T](model: type[T], text: str, name: str = "configuration") -> T:
    """Read TOML ``text`` into ``model``; errors name it ``name``."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    return typing.cast(T, _Loader(name, text).table(model, value, ()))


def sample(model: type[Any]) -> str:
    """Return a TOML file of ``model`` with every setting explained; defaults are commented out."""
    lines = [f"# {line}".rstrip() for line in (model.__doc__ or "").strip().splitlines()]
    lines += ["# Lines that are commented out show the default.", ""]
    _sample(model, (), lines)
    return "\n".join(lines).rstrip() + "\n"


class _Loader:
    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = text.splitlines()
        self.saw_secret = False

    def table(self, model: type[Any], value: object, where: Where) -> object:
        if not isinstance(value, Mapping):
            raise self._error(where, f"must be a table, not {_kind(value)}")
        hints = typing.get_type_hints(model)
        fields = {field.name: field for field in dataclasses.fields(model) if field.init}
        for key in value:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(fields)}"
                raise self._error((*where, key), f"unknown key; {hint}")
        arguments = {}
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and value.get(name) in ("", []):
                raise self._error((*where, name), f"is still empty: {field.metadata.get('help', 'required')}")
            if name in value:
                arguments[name] = self.value(hints[name], value[name], (*where, name))
            elif required:
                raise self._error((*where, name), f"is missing: {field.metadata.get('help', 'required')}")
        try:
            return model(**arguments)
        except ValueError as error:
            raise self._error(where, str(error)) from error

    def value(self, hint: Any, value: object, where: Where) -> object:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, value, where)
        if origin is Literal:
            if value not in arguments:
                raise self._error(where, f"must be one of {', '.join(map(repr, arguments))}, not {value!r}")
            return value
        if origin is list:
            if not isinstance(value, list):
                raise self._error(where, f"must be a list, not {_kind(value)}")
            return [self.value(arguments[0], item, (*where, str(i))) for i, item in enumerate(value)]
        if origin is dict:
            if not isinstance(value, dict):
                raise self._error(where, f"must be a table, not {_kind(value)}")
            return {key: self.value(arguments[1], item, (*where, key)) for key, item in value.items()}
        if origin is Secret:
            if isinstance(value, Secret):
                return value
            self.saw_secret = True
            if not isinstance(value, str):
                raise self._error(where, f"must be a text, not {_kind(value)}")
            return Secret(value)
        if dataclasses.is_dataclass(hint):
            return self.table(typing.cast(type[Any], hint), value, where)
        return self._plain(hint, value, where)

    def _union(self, arguments: tuple[Any, ...], value: object, where: Where) -> object:
        kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) != 1:
            raise TypeError(f"a setting is one type or None, not {arguments}")
        return self.value(kinds[0], value, where)

    def _plain(self, hint: Any, value: object, where: Where) -> object:
        if hint is Path and isinstance(value, str):
            return Path(value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if hint in (str, int, float, bool) and type(value) is hint:
            return value
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path (text)"}
        if hint not in names:
            raise TypeError(f"{'.'.join(where)}: no rule for settings of type {hint}")
        raise self._error(where, f"must be {names[hint]}, not {_kind(value)}")

    def _error(self, where: Where, message: str) -> ConfigError:
        line = self._line(where)
        place = f"{self._name}:{line}" if line else self._name
        return ConfigError(f"{place}: {'.'.join(where) or 'the file'}: {message}")

    def _line(self, where: Where) -> int | None:
        """Best guess of the line of a key: its last name, after the header of its table."""
        if not where:
            return None
        section: tuple[str, ...] = ()
        names = tuple(part for part in where if not part.isdigit())
        for number, line in enumerate(self._lines, 1):
            text = line.strip()
            if text.startswith("["):
                section = tuple(text.strip("[] ").split("."))
                if section == names:
                    return number
            elif section == names[: len(section)] and text.partition("=")[0].strip() in names[len(section) :]:
                return number
        return None


def _sample(model: type[Any], where: Where, lines: list[str]) -> None:
    hints = typing.get_type_hints(model)
    tables: list[tuple[str, type[Any], bool]] = []
    repeated: list[str] = []  # tables of which there may be several: their text shows one, in TOML they come last
    for field in dataclasses.fields(model):
        hint, optional = hints[field.name], False
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint, optional = next(kind for kind in typing.get_args(hint) if kind is not type(None)), True
        if dataclasses.is_dataclass(hint):
            tables.append((field.name, typing.cast(type[Any], hint), optional))
            continue
        text = [f"# {text}" for text in str(field.metadata.get("help", "")).splitlines() if text]
        if typing.get_origin(hint) is list and dataclasses.is_dataclass(typing.get_args(hint)[0]):
            if where and not text[0].startswith(f"# [[{where[0]}"):
                text[0] = text[0].replace("[[", f"[[{where[0]}.")
            repeated += [*text, ""]
        else:
            lines += [*text, _sample_line(field, hint), ""]
    for name, table, optional in tables:
        header = ".".join((*where, name))
        doc = (table.__doc__ or "").strip().splitlines()
        lines += [f"# {line}".rstrip() for line in doc] + [f"[{header}]" if not optional else f"# [{header}]", ""]
        start = len(lines)
        _sample(table, (*where, name), lines)
        if optional:
            lines[start:] = [line if not line or line.startswith("#") else f"# {line}" for line in lines[start:]]
    lines += repeated


def _sample_line(field: dataclasses.Field[Any], hint: Any) -> str:
    default: object = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING:
        empty: dict[Any, str] = {int: "0", float: "0.0", bool: "false"}
        shape = {list: "[]", dict: "{}"}.get(typing.get_origin(hint) or hint, '""')
        return f"{field.name} = {empty.get(hint, shape)}"
    return f"# {field.name} = {_toml(default)}" if default is not None else f"# {field.name} ="


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Secret):
        return '""'
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _kind(value: object) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
    return names.get(type(value), "a table" if isinstance(value, dict) else type(value).__name__)
