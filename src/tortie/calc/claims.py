"""Who holds what only one can hold: the lowest claimant, whoever came first."""

from collections.abc import Hashable, Iterable
from typing import Any, Generic, TypeVar

Thing = TypeVar("Thing", bound=Hashable)
Claimant = TypeVar("Claimant", bound=Any)
"""Hashable and sortable."""


class Claims(Generic[Thing, Claimant]):
    """Each thing's claimants, lowest first; a function of the claims, not of their history."""

    def __init__(self) -> None:
        self._claimants: dict[Thing, tuple[Claimant, ...]] = {}

    def add(self, thing: Thing, claimant: Claimant) -> None:
        others = self._claimants.get(thing)
        if others is None:
            self._claimants[thing] = (claimant,)
        elif claimant not in others:
            self._claimants[thing] = tuple(sorted((*others, claimant)))

    def discard(self, thing: Thing, claimant: Claimant) -> None:
        left = tuple(other for other in self._claimants.get(thing, ()) if other != claimant)
        if left:
            self._claimants[thing] = left
        else:
            self._claimants.pop(thing, None)

    def claimants(self, thing: Thing) -> tuple[Claimant, ...]:
        """Lowest first."""
        return self._claimants.get(thing, ())

    def holder(self, thing: Thing) -> Claimant | None:
        claimants = self._claimants.get(thing)
        return claimants[0] if claimants else None

    def things(self) -> Iterable[Thing]:
        return self._claimants.keys()

    def __contains__(self, thing: Thing) -> bool:
        return thing in self._claimants

    def __len__(self) -> int:
        return len(self._claimants)
