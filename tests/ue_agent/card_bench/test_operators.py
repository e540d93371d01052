"""Operators by MCC and MNC."""

from pathlib import Path

from ue_agent.card_bench.operators import operator_name

LIST = """<?xml version="1.0"?>
<serviceproviders format="2.0"><country code="ad"><name>Andorra</name>
<provider><name>Andorra Telecom</name><gsm><network-id mcc="213" mnc="03"/></gsm></provider>
<provider><name>Other</name><gsm><network-id mcc="213" mnc="03"/><network-id mcc="310" mnc="260"/></gsm></provider>
</country></serviceproviders>"""


def test_names(tmp_path: Path) -> None:
    """In the form of mobile-broadband-provider-info."""
    path = tmp_path / "list.xml"
    path.write_text(LIST)
    assert operator_name("213", "03", path) == "Andorra Telecom"
    assert operator_name("310", "260", path) == "Other"
    assert operator_name("310", "26", path) is None
    assert operator_name("001", "01", path) == "test network"
    assert operator_name("999", "70", path) == "private network"


def test_no_list_or_a_broken_one(tmp_path: Path) -> None:
    assert operator_name("213", "03", tmp_path / "none.xml") is None
    (tmp_path / "broken.xml").write_text("<serviceproviders>")
    assert operator_name("213", "03", tmp_path / "broken.xml") is None
