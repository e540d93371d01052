"""What the WWPF's own requests carry."""

from ue_agent.wwpf.portal import _joined_cookies, forwarded


def test_headers_of_one_connection_do_not_go_on() -> None:
    headers = [
        ("Host", "x"),
        ("Connection", "keep-alive, X-Once"),
        ("X-Once", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Proxy-Authorization", "Basic x"),
        ("Authorization", "Digest x"),
        ("Accept", "text/html"),
    ]
    assert forwarded(headers, ("authorization",)) == [("Accept", "text/html")]


def test_cookies_that_http2_has_split_are_joined() -> None:
    headers = [("cookie", "a=1"), ("Accept", "*/*"), ("cookie", "b=2")]
    assert _joined_cookies(headers) == [("Accept", "*/*"), ("Cookie", "a=1; b=2")]
    assert _joined_cookies(headers[:2]) == headers[:2]
