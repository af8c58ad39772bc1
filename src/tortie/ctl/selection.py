"""Which resources a command line means: `KIND [NAME…]` and `KIND/NAME…`."""

from collections.abc import Sequence
from typing import NamedTuple

from tortie.ctl.kinds import kind_named
from tortie.lib.errors import InvalidInput
from tortie.model.documents import DEFAULT_NAMESPACE
from tortie.model.keys import NAMESPACED, ResourceKey


class Selection(NamedTuple):
    """One kind, and of it the named ones; None means all."""

    kind: str
    names: tuple[str, ...] | None


def parse(words: Sequence[str]) -> list[Selection]:
    """
    Raises:
        InvalidInput: no kind, an unknown one, or both forms mixed.
    """
    if not words:
        raise InvalidInput("say which kind, such as 'networkpolicy', or give a file with -f")
    if "/" not in words[0]:
        kind = kind_named(words[0])
        return [Selection(kind, tuple(words[1:]) or None)]
    chosen: list[Selection] = []
    for word in words:
        kind_text, slash, name = word.partition("/")
        if not (kind_text and slash and name):
            raise InvalidInput(f"{word!r} is not of the form KIND/NAME, as the one before it")
        chosen.append(Selection(kind_named(kind_text), (name,)))
    return chosen


def keys(selection: Selection, namespace: str | None) -> list[ResourceKey]:
    """The keys of what is selected by name."""
    where = (namespace or DEFAULT_NAMESPACE) if selection.kind in NAMESPACED else ""
    return [ResourceKey(selection.kind, name, where) for name in selection.names or ()]
