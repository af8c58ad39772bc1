"""What a translation gives: resources to store, and what of the wish they do not carry."""

from typing import NamedTuple

from tortie.model.metadata import Resource


class Translated(NamedTuple):
    """The resources of one port or one security group.

    A problem never widens anything: what cannot be expressed is left out, so it is closed.
    Where nothing at all can be expressed there are no resources, and stored ones go.
    """

    resources: tuple[Resource, ...] = ()
    problems: tuple[str, ...] = ()
    """For the operator and the owner, one text each; printable."""
