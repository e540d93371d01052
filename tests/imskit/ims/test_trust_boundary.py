"""The border of the trust domain."""

from __future__ import annotations

import pytest

from imskit.ims.trust_boundary import clean_from_ue, clean_towards_ue
from imskit.sip.wire.message import Request


def message(*fields: tuple[str, object]) -> Request:
    return Request.create("INVITE", "tel:+1", fields)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1"),
        ("3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1;network-provided", None),
        ("3GPP-E-UTRAN-FDD;x=1, IEEE-802.11;network-provided", "3GPP-E-UTRAN-FDD;x=1"),
        ("3GPP-E-UTRAN-FDD;x=1, @;=", "3GPP-E-UTRAN-FDD;x=1"),
    ],
)
def test_access_information(given: str, kept: str | None) -> None:
    request = message(("P-Access-Network-Info", given))
    clean_from_ue(request)
    assert request.headers.get("P-Access-Network-Info") == kept


@pytest.mark.parametrize("privacy", ["id", "header; id", "user;ID", "critical;id"])
def test_privacy(privacy: str) -> None:
    request = message(("Privacy", privacy), ("P-Asserted-Identity", "<sip:a@b>"))
    clean_towards_ue(request)
    assert "P-Asserted-Identity" not in request.headers


@pytest.mark.parametrize("privacy", ["none", "header", "identity"])
def test_no_privacy_asked(privacy: str) -> None:
    request = message(("Privacy", privacy), ("P-Asserted-Identity", "<sip:a@b>"), ("P-Charging-Vector", "x"))
    clean_towards_ue(request)
    assert "P-Asserted-Identity" in request.headers
    assert "P-Charging-Vector" not in request.headers
