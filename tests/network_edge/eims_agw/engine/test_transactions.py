"""Commands under one cookie are done once [A-IQ]."""

from network_edge.eims_agw.engine.transactions import KEEP_SECONDS, Transactions


def test_a_repetition_gets_the_first_answer():
    transactions = Transactions()
    assert transactions.begin("a", "1", 0.0) == (True, None)
    assert transactions.begin("a", "1", 0.1) == (False, None), "still at work: nothing is sent"
    transactions.finish("a", "1", b"done")
    assert transactions.begin("a", "1", 0.2) == (False, b"done")
    assert transactions.repeated == 2


def test_cookies_belong_to_their_sender():
    transactions = Transactions()
    transactions.begin("a", "1", 0.0)
    assert transactions.begin("b", "1", 0.0) == (True, None)


def test_answers_are_forgotten_in_time():
    transactions = Transactions()
    transactions.begin("a", "1", 0.0)
    transactions.finish("a", "1", b"done")
    assert transactions.begin("a", "1", KEEP_SECONDS - 0.1) == (False, b"done")
    assert transactions.begin("a", "1", KEEP_SECONDS + 0.1) == (True, None)


def test_a_flood_takes_bounded_room():
    transactions = Transactions(limit=10)
    for number in range(1000):
        transactions.begin("a", str(number), 0.0)
        assert len(transactions) <= 10
    transactions.finish("a", "0", b"for one long forgotten")
    assert len(transactions) == 10
