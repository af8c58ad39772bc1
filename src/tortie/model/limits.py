"""What values a field takes, said in its type: `Annotated[int | None, Limits(low=1)]`.

Decoding does not look at them, so an odd value that another writer stored stays readable;
`tortie.model.validation` checks them for whatever a user wants to store, and reference pages
and `explain` print them. Rules about several fields are functions of `validation`.

Source: the limits in Calico's resource schemas (api/config/crd).
"""

from typing import Annotated, NamedTuple, TypeAlias


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
Priority: TypeAlias = Annotated[int, Limits(low=1, high=2147483646)]
"""Of a route, in the kernel's 32 bits without its ends."""
