"""Which keys were delivered, in which revision: for a hundred thousand of them in 4 MB.

A dict of that size takes 25. Here keys lie sorted in pages, each with what its keys begin with
in common, the rest of them in one text, and the revisions in one array. To look something up
costs some microseconds instead of a tenth of one, which is little beside taking an update in.
"""

import os.path
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_PAGE = 96
_PAGE_MOST = 2 * _PAGE

_END = "\0"
"""Between the keys of a page. The rare key that has it inside lies elsewhere, like all that are
not ASCII: of those that are not Unicode the order as text is another one than as bytes."""


class Delivered:
    """Key → revision, in the order of keys."""

    def __init__(self) -> None:
        self._pages: list[_Page] = []
        self._firsts: list[str] = []
        """The first key of each page."""
        self._odd: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._odd) + sum(len(page.revisions) for page in self._pages)

    def get(self, key: str) -> int | None:
        """None for a key that is not there."""
        if _is_odd(key):
            return self._odd.get(key)
        page = self._page_of(key)
        at = page.find(key) if page else None
        return None if page is None or at is None else page.revisions[at]

    def between(self, first: str, last: str) -> dict[str, int]:
        """What lies from one key to another, both included, in the order of a datastore."""
        found: dict[str, int] = {}
        for page in self._pages[max(bisect_right(self._firsts, first) - 1, 0) :]:
            keys = page.keys()
            if keys[0] > last:
                break
            found.update(zip(keys, page.revisions, strict=True))
        inside = {key: revision for key, revision in found.items() if first <= key <= last}
        low, high = _ordered(first), _ordered(last)
        return inside | {
            key: revision for key, revision in self._odd.items() if low <= _ordered(key) <= high
        }

    def record(self, revisions: Iterable[tuple[str, int | None]]) -> None:
        """Take over some; a revision of None means that the key is gone, or was never there."""
        changes = dict(revisions)
        for key in filter(_is_odd, list(changes)):
            revision = changes.pop(key)
            if revision is None:
                self._odd.pop(key, None)
            else:
                self._odd[key] = revision
        if len(changes) == 1 and self._replace(*next(iter(changes.items()))):
            return
        keys = sorted(changes)
        done = 0
        while done < len(keys):
            place = max(bisect_right(self._firsts, keys[done]) - 1, 0)
            following = self._firsts[place + 1] if place + 1 < len(self._firsts) else None
            until = len(keys) if following is None else bisect_left(keys, following, done)
            self._merge(place, {key: changes[key] for key in keys[done:until]})
            done = until

    def _page_of(self, key: str) -> "_Page | None":
        """The one that has it, if any has."""
        place = bisect_right(self._firsts, key) - 1
        return self._pages[place] if place >= 0 else None

    def _replace(self, key: str, revision: int | None) -> bool:
        """The usual change: a key that is there, in a newer revision. False: it is another one."""
        page = self._page_of(key)
        if revision is None or page is None or (at := page.find(key)) is None:
            return False
        page.revisions[at] = revision
        return True

    def _merge(self, place: int, changes: dict[str, int | None]) -> None:
        """Write the page anew, as one or as several."""
        here = self._pages[place : place + 1]
        known: dict[str, int | None] = {}
        for page in here:
            known.update(zip(page.keys(), page.revisions, strict=True))
        known.update(changes)
        entries = sorted((key, revision) for key, revision in known.items() if revision is not None)
        size = _PAGE if len(entries) > _PAGE_MOST else _PAGE_MOST
        chunks = [entries[start : start + size] for start in range(0, len(entries), size)]
        self._pages[place : place + len(here)] = map(_page, chunks)
        self._firsts[place : place + len(here)] = [chunk[0][0] for chunk in chunks]


def _is_odd(key: str) -> bool:
    return _END in key or not key.isascii()


def _ordered(key: str) -> bytes:
    """What datastores sort by."""
    return key.encode(errors="surrogateescape")


class _Page(NamedTuple):
    prefix: str
    rests: str
    """Of the keys, each but the last with `_END` behind it."""
    revisions: "array[int]"

    def keys(self) -> list[str]:
        return [self.prefix + rest for rest in self.rests.split(_END)]

    def find(self, key: str) -> int | None:
        if not key.startswith(self.prefix):
            return None
        rests = self.rests.split(_END)
        rest = key[len(self.prefix) :]
        at = bisect_left(rests, rest)
        return at if at < len(rests) and rests[at] == rest else None


def _page(entries: Sequence[tuple[str, int]]) -> _Page:
    # Any characters will do, parts of a path or not.
    prefix = os.path.commonprefix([entries[0][0], entries[-1][0]])  # noqa: RUF071
    rests = _END.join(key[len(prefix) :] for key, _ in entries)
    return _Page(prefix, rests, array("q", [revision for _, revision in entries]))
