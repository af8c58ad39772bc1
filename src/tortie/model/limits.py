"""What values a field takes, said in its type: `Annotated[int | None, Limits(low=1)]`.

Decoding does not look at them, so an odd value that another writer stored stays readable;
`tortie.model.validation` checks them for whatever a user wants to store, and reference pages
and `explain` print them. Rules about several fields are functions of `validation`.

Source: the limits in Calico's resource schemas (api/config/crd).
"""

import types
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, TypeAlias, Union, get_args, get_origin


class Limits(NamedTuple):
    """All that are given must hold; a value that is empty counts as absent."""

    low: int | None = None
    """Of a number."""
    high: int | None = None
    longest: int | None = None
    """Characters of a text."""
    fewest: int = 0
    """Entries of a list; a list that is not given at all is fine."""
    most: int | None = None
    choices: tuple[str | int, ...] = ()
    pattern: str = ""
    """A regular expression for the whole text."""
    rule: str = ""
    """`pattern` in words."""
    form: str = ""
    """What the text is: see `FORMS`."""
    unique: bool = False
    """No entry of the list is there twice."""
    unique_by: str = ""
    """No two entries have the same value of this attribute."""
    required: bool = False
    """Not empty either."""
    written: bool = False
    """Always stored, even as its default. What is required or present is, too."""
    present: bool = False
    """Said by the user, if only that it is empty; what is required is to be present too."""


FORMS = {
    "network": "a network such as 10.0.0.0/8",
    "time": "a time such as 2026-01-31T12:00:00Z",
    "selector": "a selector such as role == 'web'",
    "duration": "a duration such as 90s",
}

REQUIRED = Limits(required=True)
PRESENT = Limits(present=True)

NAME_MAX_CHARACTERS = 253
SELECTOR_MAX_CHARACTERS = 1024

Selector: TypeAlias = Annotated[str, Limits(longest=SELECTOR_MAX_CHARACTERS, form="selector")]
NetworkText: TypeAlias = Annotated[str, Limits(form="network")]
Duration: TypeAlias = Annotated[str, Limits(form="duration")]
Time: TypeAlias = Annotated[str, Limits(form="time")]
"""RFC 3339."""
OnOff: TypeAlias = Annotated[str, Limits(choices=("Enabled", "Disabled"))]


def limits_of(annotation: Any) -> Limits:
    """The limits that a field's type says for the value itself, not for its entries."""
    if get_origin(annotation) is Annotated:
        own = [extra for extra in annotation.__metadata__ if isinstance(extra, Limits)]
        inner = limits_of(get_args(annotation)[0])
        return _merged([inner, *own])
    if get_origin(annotation) in (Union, types.UnionType):
        return _merged([limits_of(argument) for argument in get_args(annotation)])
    return Limits()


def _merged(several: Iterable[Limits]) -> Limits:
    """All of them together; of two that say the same thing differently, the last one."""
    merged = Limits()
    for limits in several:
        changes = {
            name: value
            for name, value in limits._asdict().items()
            if value != Limits._field_defaults[name]
        }
        merged = merged._replace(**changes)
    return merged
