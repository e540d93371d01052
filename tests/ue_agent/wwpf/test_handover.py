"""The secret between WWPF and SIF.  Requirement S7-SIF."""

from imskit.secrets import Secret
from ue_agent.wwpf.handover import is_genuine, new_secret


def test_only_the_secret_itself_is_genuine() -> None:
    secret = new_secret()
    assert secret != new_secret()
    assert len(secret.reveal()) >= 32
    assert is_genuine(secret.reveal(), secret)
    for value in (None, "", "guess", secret.reveal()[:-1], secret.reveal() + "x", "ü"):
        assert not is_genuine(value, secret)
    assert not is_genuine("", Secret("x"))
