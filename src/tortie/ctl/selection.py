"""Which resources a command line means: `KIND [NAME…]` and `KIND/NAME…`."""

from __future__ import annotations

from tortie.ctl.grammar import mistake
from tortie.ctl.kinds import NAMESPACED, kind_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tortie.model.keys import ResourceKey

DEFAULT_NAMESPACE = "default"


class Selection:
    """One kind, and of it the named ones; None means all."""

    __slots__ = ("kind", "names")

    def __init__(self, kind: str, names: tuple[str, ...] | None) -> None:
        self.kind = kind
        self.names = names


def parse(words: Sequence[str]) -> list[Selection]:
    """
    Raises:
        InvalidInput: no kind, an unknown one, an empty name, or both forms mixed.
    """
    if not words:
        raise mistake("say which kind, such as 'networkpolicy', or give a file with -f")
    if "/" not in words[0]:
        kinds = [kind_named(word) for word in words[0].split(",")]
        names = tuple(words[1:])
        if "" in names:
            raise mistake("resource name may not be empty")
        return [Selection(kind, names or None) for kind in kinds]
    chosen: list[Selection] = []
    for word in words:
        kind_text, slash, name = word.partition("/")
        if not (kind_text and slash and name):
            raise mistake(f"{word!r} is not of the form KIND/NAME, as the one before it")
        chosen.append(Selection(kind_named(kind_text), (name,)))
    return chosen


def check_namespace(chosen: Sequence[Selection], namespace: str, *, everywhere: bool) -> None:
    """
    Raises:
        InvalidInput: -n or -A do not go with the kinds, the names or one another.
    """
    if namespace and everywhere:
        raise mistake("cannot use both --namespace and --all-namespaces flags at the same time")
    for selected in chosen:
        if selected.kind not in NAMESPACED:
            if namespace or everywhere:
                raise mistake(f"{selected.kind} is not namespaced")
        elif everywhere and selected.names:
            raise mistake("cannot use --all-namespaces flag for getting a single resource")


def keys(selection: Selection, namespace: str) -> list[ResourceKey]:
    """The keys of what is selected by name."""
    from tortie.model.keys import ResourceKey

    where = (namespace or DEFAULT_NAMESPACE) if selection.kind in NAMESPACED else ""
    return [ResourceKey(selection.kind, name, where) for name in selection.names or ()]


def one_key(words: Sequence[str], namespace: str) -> ResourceKey:
    """The one resource that `KIND NAME` or `KIND/NAME` means.

    Raises:
        InvalidInput: it is not one.
    """
    chosen = parse(words)
    check_namespace(chosen, namespace, everywhere=False)
    found = [key for selected in chosen for key in keys(selected, namespace)]
    if len(found) != 1:
        raise mistake("give one kind and one name")
    return found[0]
