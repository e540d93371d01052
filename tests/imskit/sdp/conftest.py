"""The sample descriptions of ``data/``, and one endpoint of each side."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imskit.sdp.attributes import Candidate, Fingerprint
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.web_side import WebEndpoint

DATA = Path(__file__).parent / "data"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``sample_path`` runs for every sample."""
    if "sample_path" in metafunc.fixturenames:
        paths = sorted(DATA.glob("*.sdp"))
        metafunc.parametrize("sample_path", paths, ids=[path.stem for path in paths])


@pytest.fixture(scope="session")
def sample() -> Callable[[str], SessionDescription]:
    """Reads one sample by name."""
    return lambda name: SessionDescription.parse((DATA / f"{name}.sdp").read_bytes())


@pytest.fixture
def ims_endpoint() -> ImsEndpoint:
    return ImsEndpoint("10.45.0.2", 50000, 4711)


@pytest.fixture
def web_endpoint() -> WebEndpoint:
    return WebEndpoint(
        session_id=1234567890123456789,
        ice_ufrag="abcd",
        ice_pwd="abcdefghijklmnopqrstuv",
        candidates=(Candidate("1", 1, "udp", 2130706431, "203.0.113.2", 40000, "host"),),
        fingerprints=(Fingerprint("sha-256", ":".join(["AB"] * 32)),),
        ssrc=77,
        cname="agent",
    )
