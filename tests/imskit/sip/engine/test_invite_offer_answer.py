"""The offer/answer machine: RFC 3264 section 4."""

from __future__ import annotations

import pytest

from imskit.sip.engine.invite_offer_answer import RULES, Carrier, OfferAnswer, OfferAnswerError, OfferState, Step


def take(offers: OfferAnswer, step: Step) -> None:
    """Take a step."""
    match step:
        case Step.SEND_OFFER:
            offers.send_offer(b"mine", Carrier.UPDATE)
        case Step.RECEIVE_OFFER:
            offers.receive_offer(b"theirs", Carrier.UPDATE)
        case Step.SEND_ANSWER:
            offers.send_answer(b"mine")
        case Step.RECEIVE_ANSWER:
            offers.receive_answer(b"theirs")


@pytest.mark.parametrize("state", OfferState)
@pytest.mark.parametrize("step", Step)
def test_every_state_takes_what_the_table_says_and_nothing_else(state: OfferState, step: Step) -> None:
    offers = OfferAnswer()
    offers.state = state
    offers.pending = b"pending" if state in (OfferState.LOCAL_OFFER, OfferState.REMOTE_OFFER) else None
    if (state, step) in RULES:
        take(offers, step)
        assert offers.state is RULES[state, step]
    else:
        with pytest.raises(OfferAnswerError):
            take(offers, step)
        assert offers.state is state


def test_an_exchange_each_way() -> None:
    offers = OfferAnswer()
    offers.send_offer(b"o1", Carrier.INVITE)
    assert (offers.pending, offers.carrier, offers.stable) == (b"o1", Carrier.INVITE, False)
    offers.preview = b"a1"
    offers.receive_answer(b"a1")
    assert (offers.local, offers.remote, offers.completed, offers.preview) == (b"o1", b"a1", 1, None)
    offers.receive_offer(b"o2", Carrier.UPDATE)
    offers.send_answer(b"a2")
    assert (offers.local, offers.remote, offers.completed, offers.stable) == (b"a2", b"o2", 2, True)


def test_a_refused_offer_leaves_what_was() -> None:
    offers = OfferAnswer()
    offers.receive_offer(b"o1", Carrier.INVITE)
    offers.abandon()
    assert offers.state is OfferState.NONE
    offers.receive_offer(b"o1", Carrier.INVITE)
    offers.send_answer(b"a1")
    offers.send_offer(b"o2", Carrier.PRACK)
    offers.abandon()
    assert (offers.state, offers.local, offers.remote, offers.completed) == (OfferState.STABLE, b"a1", b"o1", 1)
    offers.abandon()
    assert offers.stable
