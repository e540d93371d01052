"""Cookies that stand for a log-in.  Requirement S7-SIF."""

from hypothesis import given
from hypothesis import strategies as st

from ue_agent.wwpf import sessions as module
from ue_agent.wwpf.sessions import LoginSessions, SetCookie, read_cookies

GOOD = "session=0123456789abcdef; Domain=ims.example; Path=/; Secure; HttpOnly; SameSite=Lax"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_set_cookie() -> None:
    assert SetCookie.parse(GOOD + "; Max-Age=60") == SetCookie("session", "0123456789abcdef", True, True, 60)
    assert SetCookie.parse("a=b=c; max-age=-1; SECURE") == SetCookie("a", "b=c", True, False, -1)
    assert SetCookie.parse("a=b; max-age=x") == SetCookie("a", "b", False, False, None)
    assert SetCookie.parse("novalue; Secure") is None
    assert SetCookie.parse("=x") is None


def test_cookies() -> None:
    assert read_cookies(["a=1; b=2=3", "c=4;d"]) == [("a", "1"), ("b", "2=3"), ("c", "4")]


def test_only_what_cannot_be_read_or_guessed_stands_for_a_log_in() -> None:
    sessions = LoginSessions(Clock())
    weak = [GOOD.replace("; Secure", ""), GOOD.replace("; HttpOnly", ""), GOOD.replace("0123456789abcdef", "short")]
    assert sessions.opened([*weak, "lang=en; Secure; HttpOnly", GOOD + "; Max-Age=0"]) == []
    (opened,) = sessions.opened([GOOD])
    assert sessions.find([("session", "0123456789abcdef"), ("lang", "en")]) == {"session": opened[0]}
    assert "0123456789abcdef" not in opened[0]
    assert not sessions.find([("session", "0123456789abcdeF")])
    assert not sessions.find([("other", "0123456789abcdef")])
    sessions.closed([opened[0]])
    assert not sessions.find([("session", "0123456789abcdef")])


def test_they_end() -> None:
    clock = Clock()
    sessions = LoginSessions(clock)
    cookie = [("session", "0123456789abcdef")]
    sessions.opened([GOOD + "; Max-Age=60"])
    clock.now += 59
    assert sessions.find(cookie)
    clock.now += 1
    assert not sessions.find(cookie)
    sessions.opened([GOOD])
    clock.now += module.MAXIMUM_LIFE_S
    assert not sessions.find(cookie)


def test_they_are_bounded_and_can_be_handed_on() -> None:
    sessions = LoginSessions(Clock())
    known = [sessions.opened([f"s=0123456789abcdef{n}; Secure; HttpOnly"])[0] for n in range(module.CAPACITY + 1)]
    assert len(sessions) == module.CAPACITY
    assert not sessions.find([("s", "0123456789abcdef0")])
    successor = LoginSessions(Clock())
    successor.replace(known[-2:])
    assert successor.find([("s", f"0123456789abcdef{module.CAPACITY}")])
    successor.replace([])
    assert len(successor) == 0


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    sessions = LoginSessions(Clock())
    sessions.opened([text])
    sessions.find(read_cookies([text]))
