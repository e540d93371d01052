"""Pages for the user."""

import pytest

from ue_agent.wwpf import pages
from ue_agent.wwpf.agent import KINDS


def test_what_comes_from_elsewhere_is_text() -> None:
    for made in (
        pages.portal_unreachable,
        pages.login_refused,
        pages.wrong_network,
        pages.not_ready,
        pages.not_allowed,
        pages.no_key,
    ):
        body = made('<script>alert("x")</script>').body.decode()
        assert "<script>" not in body
        assert "&lt;script&gt;" in body


@pytest.mark.parametrize("kind", KINDS)
def test_each_reason_has_its_status(kind: str) -> None:
    expected = {"wrong-network": 403, "phishing": 403, "bsf": 502}
    assert pages.for_agent_error(kind, "x").status == expected.get(kind, 503)
