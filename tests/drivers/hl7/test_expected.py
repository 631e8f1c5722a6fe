"""What may still be acknowledged: bounded in number and time, and never confused by two messages of one name."""

from __future__ import annotations

from drivers.hl7.expected import MAX_EXPECTED, Expected


def test_each_is_acknowledged_as_often_as_it_was_sent() -> None:
    e = Expected()
    e.add(b"A", 10.0, unsure=True)
    e.add(b"A", 11.0, unsure=True)
    e.add(b"B", 10.0, unsure=False)
    assert e.unsure == 2
    assert [e.take(b"A"), e.take(b"A"), e.take(b"A"), e.take(b"B"), e.take(b"C")] == [True, True, False, True, False]
    assert e.unsure == 0


def test_silence_is_over_after_a_while_and_of_two_the_later_counts() -> None:
    e = Expected()
    e.add(b"A", 10.0, unsure=True)
    e.add(b"A", 12.0, unsure=True)
    e.add(b"B", 10.0, unsure=False)
    assert e.expire(9.9) == 0 and e.expire(11.0) == 0 and not e.take(b"B")
    assert e.expire(12.0) == 2 and not e.take(b"A")


def test_it_is_full_until_something_is_acknowledged_or_over() -> None:
    e = Expected()
    for i in range(MAX_EXPECTED):
        assert not e.full
        e.add(b"%d" % i, float(i), unsure=True)
    assert e.full and e.take(b"7") and not e.full
    e.add(b"7", 7.0, unsure=True)
    assert e.full and e.expire(0.5) == 1 and not e.full
    e.clear()
    assert e.unsure == 0 and not e.full
