"""Flows and targets."""

from imskit.sip.wire.flow import Flow, Target


def test_flow() -> None:
    flow = Flow("WSS", ("2001:db8::1", 443), ("192.0.2.1", 5), 7)
    assert flow.reliable and flow.secure
    assert str(flow) == "WSS [2001:db8::1]:443<->192.0.2.1:5 #7"
    assert flow != Flow("WSS", ("2001:db8::1", 443), ("192.0.2.1", 5), 8)
    udp = Flow("UDP", ("10.0.0.1", 5060), ("10.0.0.2", 5060), 1)
    assert not udp.reliable and not udp.secure


def test_target() -> None:
    assert Target("TLS", ("a", 5061)).reliable and not Target("UDP", ("a", 1)).reliable
    assert str(Target("UDP", ("::1", 5060))) == "UDP [::1]:5060"
