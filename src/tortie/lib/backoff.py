"""How long to wait before trying again."""

import random
from collections.abc import Callable


class Backoff:
    """Delays that double up to a limit, each shortened by chance.

    The chance keeps a hundred hosts, which lost the same server in the same
    moment, from coming back in the same moment.

    Args:
        first_seconds: about the first delay.
        limit_seconds: no delay is longer.
        random_fraction: gives numbers from 0 up to 1; for tests.
    """

    def __init__(
        self,
        first_seconds: float,
        limit_seconds: float,
        random_fraction: Callable[[], float] = random.random,
    ) -> None:
        self._first_seconds = first_seconds
        self._limit_seconds = limit_seconds
        self._random_fraction = random_fraction
        self._next_seconds = first_seconds

    def next_seconds(self) -> float:
        """The delay before the next attempt: between half of the step and all of it."""
        step = min(self._next_seconds, self._limit_seconds)
        self._next_seconds = step * 2
        return step * (0.5 + self._random_fraction() / 2)

    def reset(self) -> None:
        """It worked: the next failure starts small again."""
        self._next_seconds = self._first_seconds


def spread_seconds(seconds: float, random_fraction: Callable[[], float] = random.random) -> float:
    """`seconds` give or take a tenth, so that hosts started together drift apart."""
    return seconds * (0.9 + random_fraction() / 5)
