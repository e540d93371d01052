"""Secrets and identities do not print themselves."""

import pickle

import pytest

from imskit.secrets import Identity, Secret


def test_a_secret_shows_nothing() -> None:
    secret = Secret(b"\x01\x02")
    assert {repr(secret), str(secret), f"{secret}", f"{secret:>20}"} == {"<redacted>"}
    assert secret.reveal() == b"\x01\x02"
    assert secret == Secret(b"\x01\x02")
    assert secret != Secret(b"\x01\x03")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_an_identity_is_text_with_a_masked_repr() -> None:
    identity = Identity("sip:001010000000001@ims.example")
    assert identity == "sip:001010000000001@ims.example"
    assert repr(identity) == "<sip:001…01@ims.example>"
    assert repr(Identity("short")) == "<…>"
