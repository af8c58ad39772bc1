"""The difference between what should be and what is, kept incrementally."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Delta(Generic[K, V]):
    """Tracks one kernel table, keyed the way the kernel keys it.

    Invariant: `_pending` holds exactly the keys whose wanted and actual
    entries differ, so both iterators cost O(changes), never O(table).
    """

    def __init__(self) -> None:
        self._wanted: dict[K, V] = {}
        self._actual: dict[K, V] = {}
        self._pending: dict[K, None] = {}

    def want(self, key: K, value: V | None) -> None:
        """Set what `key` should be; None asks for it to be gone."""
        # Called for every element of every set: `_put` and `_compare` written out.
        if value is None:
            self._wanted.pop(key, None)
        else:
            self._wanted[key] = value
        if self._actual.get(key) == value:
            self._pending.pop(key, None)
        else:
            self._pending[key] = None

    def observe(self, key: K, value: V | None) -> None:
        """Record what the kernel holds for `key`; None if nothing."""
        _put(self._actual, key, value)
        self._compare(key)

    def observe_all(self, table: Mapping[K, V]) -> None:
        """Replace our view of the kernel after a full read-back."""
        if table == self._wanted:  # at a restart nearly always, and much faster to see
            self._actual = dict(table)
            self._pending.clear()
            return
        seen = self._actual.keys() | table.keys()
        self._actual = dict(table)
        for key in seen | self._wanted.keys():
            self._compare(key)

    def confirm(self, key: K) -> None:
        """The kernel accepted our write of `key`."""
        self.observe(key, self._wanted.get(key))

    def confirm_all(self) -> None:
        """The kernel accepted our writes of all that was pending."""
        for key in self._pending:
            _put(self._actual, key, self._wanted.get(key))
        self._pending.clear()

    def updates(self) -> Iterator[tuple[K, V]]:
        """What to write: missing or different, oldest first. Safe to confirm while iterating."""
        for key in tuple(self._pending):
            if key in self._wanted:
                yield key, self._wanted[key]

    def deletions(self) -> Iterator[K]:
        """What to remove: ours in the kernel, and no longer wanted."""
        return (key for key in tuple(self._pending) if key not in self._wanted)

    def wanted(self, key: K) -> V | None:
        return self._wanted.get(key)

    def actual(self, key: K) -> V | None:
        return self._actual.get(key)

    @property
    def wanted_keys(self) -> "set[K]":
        return set(self._wanted)

    @property
    def wanted_count(self) -> int:
        return len(self._wanted)

    @property
    def actual_count(self) -> int:
        return len(self._actual)

    @property
    def in_sync(self) -> bool:
        return not self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def _compare(self, key: K) -> None:
        if self._wanted.get(key) == self._actual.get(key):
            self._pending.pop(key, None)
        else:
            self._pending[key] = None


def _put(table: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
