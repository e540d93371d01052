"""The documents tell the truth as far as a program can see: paths, tests, requirement IDs, links, command lines."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from pathlib import Path

import pytest

from imsbridge import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
_REQUIREMENTS = """
S7-BROWSER S7-WWPF S7-AUTH S7-GBA S7-SIF S7-RMF S7-DNS S7-STUN S7-TURN S7-CALL S7-IMS S7-UICC S7-ACCESS S7-NOCHANGE
A-WIC A-WWSF A-REG1 A-REG2 A-REG3 A-EPCSCF A-IQ A-AGW A-MSRP A-BFCP A-T140 A-PCC A-CHARGE
R-MUX R-ICE R-CONSENT R-TRANSCODE R-SEC R-PROTO
S1-IWF S2-WSF S3-WAAF S4-PORTAL S5-WWS S6-PBX
X-SAMEPAGE X-COMPARE X-CARDLAB X-TRACE
"""
IDS = _REQUIREMENTS.split()
_TOP = ("imsbridge", "imskit", "ue_agent", "network_edge", "simulators", "tests", "bench", "scripts", "docs")
_NAMED = re.compile(rf"`((?:{'|'.join(_TOP)})/[\w./*-]*)(?:::(\w+))?`")
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"")


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def code_lines(text: str) -> list[str]:
    """The lines of code blocks, continued ones joined, without prompts."""
    lines: list[str] = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines += [line.removeprefix("$ ").strip() for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    return lines


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_and_tests_that_are_named_exist(document: Path) -> None:
    wrong = []
    for path, test in _NAMED.findall(document.read_text()):
        file = ROOT / path
        if "*" in path or not file.exists():
            wrong.append(path)
        elif test:
            names = {node.name for node in ast.walk(ast.parse(file.read_text())) if hasattr(node, "name")}
            if test not in names:
                wrong.append(f"{path}::{test}")
    assert wrong == []


def test_every_requirement_has_one_row_with_a_state() -> None:
    rows = table_rows((ROOT / "docs/conformance.md").read_text())
    assert sorted(row[0] for row in rows if re.match(r"[SARX]\d?-[A-Z]", row[0])) == sorted(IDS)
    states = {row[0]: row[-1] for row in rows if row[0] in IDS}
    assert [name for name, state in states.items() if not re.match(r"done|partly: |not yet", state)] == []
    assert [row[0] for row in rows if row[-1].startswith("done") and "`tests/" not in row[-2]] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    targets = [first or second for first, second in _LINK.findall(document.read_text())]
    local = [target for target in targets if not re.match(r"\w+:", target)]
    assert [target for target in local if not (document.parent / target).exists()] == []


class Parsed(Exception):
    """The command line was understood."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_parse(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*arguments: object, **named: object) -> argparse.Namespace:
        parse(*arguments, **named)  # type: ignore[arg-type]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for line in code_lines(document.read_text()):
        if not re.match(r"(\S*/)?imsbridge\s", line):
            continue
        words = shlex.split(re.split(r"\s[>&]|\s#", line)[0])
        try:
            cli.main(words[1:])
        except Parsed:
            pass
        except SystemExit as ended:
            assert ended.code == 0, f"{document.name}: {line}"
        else:
            pytest.fail(f"not parsed: {line}")


def test_a_wrong_command_line_would_be_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test above can fail."""
    document = tmp_path / "x.md"
    document.write_text("```\n$ .venv/bin/imsbridge ue run --nonsense https://x/   # comment\n```\n")
    with pytest.raises(AssertionError, match="--nonsense"):
        test_command_lines_parse(document, monkeypatch)
