"""Delays grow, end at the limit, and start small again."""

from tortie.lib.backoff import Backoff, spread_seconds


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(1.0, 5.0, random_fraction=lambda: 1.0)
    assert [backoff.next_seconds() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_seconds() == 1.0


def test_chance_takes_at_most_half_away() -> None:
    backoff = Backoff(1.0, 8.0, random_fraction=lambda: 0.0)
    assert [backoff.next_seconds() for _ in range(3)] == [0.5, 1.0, 2.0]


def test_spreading_stays_within_a_tenth() -> None:
    assert spread_seconds(10.0, lambda: 0.0) == 9.0
    assert spread_seconds(10.0, lambda: 1.0) == 11.0
