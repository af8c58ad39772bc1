"""What a session takes and gives, as a resource: rules in order, the first match decides."""

import msgspec

from tortie.model.metadata import Resource, Spec


class PrefixLength(Spec, frozen=True, kw_only=True):
    min: int | None = None
    max: int | None = None


class CommunityMatch(Spec, frozen=True, kw_only=True):
    values: tuple[str, ...] = ()


class AddCommunity(Spec, frozen=True, kw_only=True):
    value: str = ""


class PrependASPath(Spec, frozen=True, kw_only=True):
    prefix: tuple[int, ...] = ()
    """The path then begins with these, in this order."""


class SetPriority(Spec, frozen=True, kw_only=True):
    value: int | None = None


class Operation(Spec, frozen=True, kw_only=True):
    """Exactly one is given."""

    add_community: AddCommunity | None = None
    prepend_as_path: PrependASPath | None = msgspec.field(default=None, name="prependASPath")
    set_priority: SetPriority | None = None


class FilterRule(Spec, frozen=True, kw_only=True):
    """Matches a route for which everything that is given here is true."""

    action: str = ""
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
    operations: tuple[Operation, ...] = ()
    """Done to a route that is accepted."""


class BGPFilterSpec(Spec, frozen=True, kw_only=True):
    export_v4: tuple[FilterRule, ...] = ()
    import_v4: tuple[FilterRule, ...] = ()
    export_v6: tuple[FilterRule, ...] = ()
    import_v6: tuple[FilterRule, ...] = ()


class BGPFilter(Resource, frozen=True, kw_only=True):
    spec: BGPFilterSpec = BGPFilterSpec()
