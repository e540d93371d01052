"""NETLINK_XFRM messages: layout against the C headers, answers as a kernel 6.1 gave them, noise.

What the kernel makes of the requests is tested in ``tests/kernel/test_backend.py``, with ``ip xfrm`` as the reader.
"""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ipsec.errors import IpsecError
from imskit.ipsec.wire import xfrm
from imskit.secrets import Secret

SELECTOR = xfrm.Selector("10.0.0.1", "10.0.0.2", 5000, 6000)
STATE = xfrm.State(
    "10.0.0.1",
    "10.0.0.2",
    0x1234,
    0x5C000001,
    SELECTOR,
    authentication=xfrm.Cipher("hmac(sha1)", Secret(bytes(range(20))), 96),
    encryption=xfrm.Cipher("cbc(aes)", Secret(bytes(range(16)))),
)
POLICY = xfrm.Policy(SELECTOR, xfrm.Direction.OUT, 1000, xfrm.Template("10.0.0.1", "10.0.0.2", 0x5C000001), block=False)

# Answers of Linux 6.1.176 (user-mode Linux) to the requests of these tests.
EEXIST = bytes.fromhex("240000000200000102000000b6020000efffffffcc010000100005060200000000000000")
NO_ALGORITHM = bytes.fromhex(
    "4c000000020000030b000000b6020000daffffffbc010000100005060b000000000000002800010052657175657374656420435259505420"
    "616c676f726974686d206e6f7420666f756e6400"
)
DONE = bytes.fromhex("14000000030002000f000000b602000000000000")
STATE_ANSWER = bytes.fromhex(
    "280200001000000003000000b60200000a0000020000000000000000000000000a0000010000000000000000000000001770ffff1388ffff"
    "020020200000000000000000000000000a00000200000000000000000000000000001234320000000a000001000000000000000000000000"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000000000000000000a591036b00000000000000000000000000000000000000000000000000000000"
    "0100005c0200000000000000000000005c000100686d61632873686131290000000000000000000000000000000000000000000000000000"
    "00000000000000000000000000000000000000000000000000000000a0000000000102030405060708090a0b0c0d0e0f1011121360001400"
    "686d616328736861312900000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000a000000060000000000102030405060708090a0b0c0d0e0f101112135800020063626328616573290000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000008000000000010203"
    "0405060708090a0b0c0d0e0f240017000200000000000000000000000000000000000000400000000000000000000000"
)
POLICY_ANSWER = bytes.fromhex(
    "08010000130002000f000000b6020000000000000000000000000000000000000a000001000000000000000000000000000000001388ffff"
    "02000020110000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff0000000000000000"
    "00000000000000000000000000000000000000000000000000000000000000000000000000000000b091036b000000000000000000000000"
    "d007000009000000010100000000000044000500000000000000000000000000000000000000000032000000020000000a00000100000000"
    "00000000000000000100005c00000000ffffffffffffffffffffffff0a0010000000000000000000"
)

HEADER = Path("/usr/include/linux/xfrm.h")
MEASURE = """
#include <stddef.h>
#include <stdio.h>
#include <linux/xfrm.h>
#define FIELD(s, f) printf("%zu ", offsetof(struct s, f))
int main(void) {
    printf("%zu %zu %zu %zu %zu %zu %zu ", sizeof(struct xfrm_selector), sizeof(struct xfrm_usersa_info),
        sizeof(struct xfrm_usersa_id), sizeof(struct xfrm_userpolicy_info), sizeof(struct xfrm_userpolicy_id),
        sizeof(struct xfrm_user_tmpl), sizeof(struct xfrm_user_mapping));
    FIELD(xfrm_usersa_info, id); FIELD(xfrm_usersa_info, saddr); FIELD(xfrm_usersa_info, curlft);
    FIELD(xfrm_usersa_info, stats); FIELD(xfrm_usersa_info, seq); FIELD(xfrm_usersa_info, family);
    FIELD(xfrm_userpolicy_info, priority); FIELD(xfrm_user_tmpl, saddr); FIELD(xfrm_user_tmpl, aalgos);
    printf("%d %d %d %d %d %d %d %d", XFRM_MSG_NEWSA, XFRM_MSG_GETPOLICY, XFRM_MSG_UPDSA, XFRM_MSG_MAPPING,
        XFRMNLGRP_MAPPING, XFRMA_ALG_AEAD, XFRMA_ALG_AUTH_TRUNC, XFRMA_REPLAY_ESN_VAL);
}
"""


@pytest.mark.skipif(not (HEADER.exists() and shutil.which("gcc")), reason="needs gcc and linux/xfrm.h")
def test_layout_is_that_of_the_c_headers(tmp_path: Path) -> None:
    program = tmp_path / "measure"
    subprocess.run(["gcc", "-x", "c", "-", "-o", program], input=MEASURE, text=True, check=True)
    measured = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    sizes = "56 224 24 168 64 64 64"
    offsets = "56 80 160 192 204 212 152 28 52"
    assert measured == f"{sizes} {offsets} 16 21 26 38 8 18 20 23"
    assert len(xfrm.dump_states(1)) == 16 + 24
    assert len(xfrm.dump_policies(1)) == len(xfrm.delete_policy(SELECTOR, 0, 1)) == 16 + 64
    assert len(xfrm.add_policy(POLICY, 1)) == 16 + 168 + 4 + 64


def test_a_state_as_it_is_sent() -> None:
    message = xfrm.add_state(STATE, 7)
    assert isinstance(message, Secret)
    sent = message.reveal()
    length, kind, flags, sequence = struct.unpack_from("=IHHI", sent)
    assert (length, kind, flags, sequence) == (len(sent), 0x10, 0x605, 7)  # REQUEST, ACK, EXCL, CREATE
    info = sent[16 : 16 + 224]
    # The kernel gives back what it was given, but for the time of addition.
    answered = STATE_ANSWER[16 : 16 + 224]
    assert (info[:176], info[184:]) == (answered[:176], answered[184:])


def test_combined_algorithm_encapsulation_and_ipv6() -> None:
    sent = xfrm.add_state(
        xfrm.State(
            "fd00::1",
            "fd00::2",
            0x1234,
            1,
            xfrm.Selector("fd00::1", "fd00::2"),
            xfrm.Mode.TUNNEL,
            combined=xfrm.Cipher("rfc4106(gcm(aes))", Secret(bytes(20)), 128),
            encapsulation=xfrm.Encapsulation(4500, 4999),
            replay_window=0,
        ),
        1,
    ).reveal()
    attributes = sent[16 + 224 :]
    assert struct.unpack_from("=HH", attributes) == (4 + 64 + 8 + 20, 18)
    assert attributes[4:72].rstrip(b"\0")[:17] == b"rfc4106(gcm(aes))"
    assert struct.unpack_from("=II", attributes, 68) == (160, 128)
    encapsulation = attributes[96:]
    assert struct.unpack_from("=HHH", encapsulation) == (28, 4, 2)
    assert encapsulation[6:10] == bytes.fromhex("11941387")
    assert len(encapsulation) == 28  # no window, as none was asked for


def test_answers() -> None:
    assert xfrm.decode(EEXIST) == [xfrm.Acknowledgement(2, errno.EEXIST)]
    assert xfrm.decode(NO_ALGORITHM) == [xfrm.Acknowledgement(11, errno.ENOSYS, "Requested CRYPT algorithm not found")]
    assert xfrm.decode(STATE_ANSWER + DONE) == [
        xfrm.StateReport(3, "10.0.0.1", "10.0.0.2", 0x1234, xfrm.ESP, 0x5C000001, 0, 0, 0, 0, 0, 0),
        xfrm.EndOfDump(15),
    ]
    assert xfrm.decode(POLICY_ANSWER) == [
        xfrm.PolicyReport(
            15, xfrm.Selector("10.0.0.1", None, 5000, None, 17), xfrm.Direction.OUT, 2000, True, (0x5C000001,)
        )
    ]
    assert xfrm.decode(b"") == []


def test_a_selector_comes_back_as_it_went() -> None:
    for selector in (SELECTOR, xfrm.Selector(None, "fd00::2", None, 53, 17)):
        policy = xfrm.Policy(selector, xfrm.Direction.IN, 1, xfrm.Template("fd00::1", "fd00::2", 9), block=True)
        answer = bytearray(xfrm.add_policy(policy, 4))
        (report,) = xfrm.decode(bytes(answer))
        assert isinstance(report, xfrm.PolicyReport)
        assert (report.selector, report.reqids, report.block) == (selector, (9,), True)


def test_no_key_in_a_repr() -> None:
    shown = repr(STATE) + repr(xfrm.add_state(STATE, 1))
    assert "0001020304" not in shown and r"\x00\x01" not in shown


@pytest.mark.parametrize("answer", [EEXIST, NO_ALGORITHM, DONE, STATE_ANSWER, POLICY_ANSWER])
def test_cut_off_anywhere(answer: bytes) -> None:
    for length in range(len(answer)):
        try:
            xfrm.decode(answer[:length])
        except IpsecError:
            continue
        assert length == 0


@given(st.sampled_from([EEXIST, NO_ALGORITHM, DONE, STATE_ANSWER, POLICY_ANSWER]), st.data())
def test_noise(answer: bytes, data: st.DataObject) -> None:
    changed = bytearray(answer)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        xfrm.decode(bytes(changed) + data.draw(st.binary(max_size=64)))
    except IpsecError as error:
        assert error.cure


def test_too_long() -> None:
    with pytest.raises(IpsecError, match="at most"):
        xfrm.decode(DONE * (xfrm.MAX_DATAGRAM_BYTES // len(DONE) + 1))
