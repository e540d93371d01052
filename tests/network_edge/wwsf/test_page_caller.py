"""Whom the page shows (`network_edge/wwsf/page/caller.js`): run by Node.js on requests as JsSIP parses them [A-WIC]."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None or not (ROOT / "node_modules/jssip").exists(), reason="run scripts/setup")

_PROGRAM = """
const { createRequire } = await import('node:module');
const Parser = createRequire(process.argv[1] + '/package.json')('jssip/lib/Parser.js');
const { caller } = await import('file://' + process.argv[1] + '/network_edge/wwsf/page/caller.js');
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const answers = JSON.parse(Buffer.concat(chunks)).map((text) => caller(Parser.parseMessage(text, {})));
console.log(JSON.stringify(answers));
"""


def _request(method: str, from_: str, *fields: str) -> str:
    lines = [
        f"{method} sip:me@x.invalid SIP/2.0",
        "Via: SIP/2.0/WSS e.invalid;branch=z9hG4bK1",
        "Max-Forwards: 70",
        f"From: {from_};tag=a",
        "To: <sip:me@ims.example>",
        "Call-ID: c1",
        f"CSeq: 1 {method}",
        *fields,
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""])


def _shown(*requests: str) -> list[dict[str, str]]:
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", _PROGRAM, str(ROOT)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, str]] = json.loads(done.stdout)
    return answers


CASES = [
    # A caller's own word in From is not believed, in calls and texts.
    (
        '"+1 555 0100" <sip:mallory@ims.example>',
        ["P-Asserted-Identity: <sip:mallory@ims.example>"],
        "mallory@ims.example",
    ),
    ('"Your bank" <sip:+15550000@ims.example>', [], "Unknown “Your bank”"),
    ('"+1 555 0100" <sip:+15550000@ims.example>', [], "Unknown"),
    # A short message from a name has no address.
    ('"Bank" <sip:anonymous@anonymous.invalid>', [], "Unknown “Bank”"),
    ('"Your bank" <sip:+15550000@ims.example>', ["P-Asserted-Identity: <tel:+15550666>"], "+15550666 “Your bank”"),
    ('"Call 15550000 now" <sip:x@ims.example>', ["P-Asserted-Identity: <tel:+15550666>"], "+15550666"),
    # The number, of several identities and of one with a display name that looks like another.
    (
        "<sip:+15550100@ims.example>",
        ['P-Asserted-Identity: "sip:+1999@evil <tel:+1999>" <sip:+15550100@ims.example;user=phone>, <tel:+15550100>'],
        "+15550100",
    ),
    (
        "<sip:+15550100@ims.example>",
        ["P-Asserted-Identity: <sip:+15550100@ims.example>", "P-Asserted-Identity: <tel:+15550101>"],
        "+15550101",
    ),
    # RFC 3323: who withholds the identity is anonymous, whatever else has come through.
    ('"Anonymous" <sip:anonymous@anonymous.invalid>', [], "Anonymous"),
    ("<sip:a@ims.example>", ["Privacy: id", "P-Asserted-Identity: <tel:+15550100>"], "Anonymous"),
    ("<sip:a@ims.example>", ["Privacy: none", "P-Asserted-Identity: <tel:+15550100>"], "+15550100"),
]


def test_who_is_shown_is_whom_the_network_vouches_for() -> None:
    for method in ("INVITE", "MESSAGE"):
        shown = _shown(*(_request(method, from_, *fields) for from_, fields, _ in CASES))
        assert [each["who"] for each in shown] == [expected for _, _, expected in CASES]
        assert [each["address"] for each in shown if each["who"].startswith(("Unknown", "Anonymous"))] == [""] * 5
        assert shown[4]["address"] == "+15550666"  # whom to answer
