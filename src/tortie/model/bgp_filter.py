"""What a session takes and gives, as a resource: rules in order, the first match decides."""

from typing import Annotated

import msgspec

from tortie.model.limits import PRESENT, REQUIRED, Limits
from tortie.model.metadata import Resource, Spec

Community = Annotated[
    str,
    Limits(
        longest=32,
        pattern=r"(0|[1-9][0-9]*)(:(0|[1-9][0-9]*)){1,2}",
        rule="must be aa:nn with 16 bits each, or aa:nn:mm with 32 bits each",
    ),
]


class PrefixLength(Spec, frozen=True, kw_only=True):
    min: int | None = None
    max: int | None = None


class CommunityMatch(Spec, frozen=True, kw_only=True):
    values: Annotated[tuple[Community, ...], Limits(required=True, fewest=1, most=1)] = ()


class AddCommunity(Spec, frozen=True, kw_only=True):
    value: Annotated[Community, REQUIRED] = ""


class PrependASPath(Spec, frozen=True, kw_only=True):
    prefix: Annotated[tuple[int, ...], Limits(required=True, fewest=1, most=10)] = ()
    """The path then begins with these, in this order."""


class SetPriority(Spec, frozen=True, kw_only=True):
    value: Annotated[int | None, Limits(required=True, low=1, high=2147483646)] = None


class Operation(Spec, frozen=True, kw_only=True):
    """Exactly one is given."""

    add_community: AddCommunity | None = None
    prepend_as_path: PrependASPath | None = msgspec.field(default=None, name="prependASPath")
    set_priority: SetPriority | None = None


class FilterRule(Spec, frozen=True, kw_only=True):
    """Matches a route for which everything that is given here is true."""

    action: Annotated[str, REQUIRED] = ""
    """`Accept` or `Reject`."""
    cidr: str = ""
    match_operator: str = ""
    """`Equal`, `NotEqual`, `In`, `NotIn`; given if and only if `cidr` is."""
    prefix_length: PrefixLength | None = None
    source: str = ""
    """`RemotePeers`: learnt by BGP."""
    interface: str = ""
    """That the route leads out of."""
    peer_type: str = ""
    """`eBGP` or `iBGP`."""
    communities: CommunityMatch | None = None
    as_path_prefix: tuple[int, ...] = msgspec.field(default=(), name="asPathPrefix")
    """The AS path begins with these."""
    priority: int | None = None
    operations: Annotated[tuple[Operation, ...], Limits(fewest=1, most=10)] = ()
    """Done to a route that is accepted."""


class BGPFilterSpec(Spec, frozen=True, kw_only=True):
    export_v4: tuple[FilterRule, ...] = ()
    import_v4: tuple[FilterRule, ...] = ()
    export_v6: tuple[FilterRule, ...] = ()
    import_v6: tuple[FilterRule, ...] = ()


class BGPFilter(Resource, frozen=True, kw_only=True):
    spec: Annotated[BGPFilterSpec, PRESENT] = BGPFilterSpec()
