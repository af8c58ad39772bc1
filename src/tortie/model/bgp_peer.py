"""BGP sessions as a resource: which nodes peer with whom, and how."""

from typing import Annotated

import msgspec

from tortie.model.bgp_configuration import SecretKeySelector
from tortie.model.limits import NAME_MAX_CHARACTERS, PRESENT, Limits, Selector
from tortie.model.metadata import Resource, Spec


class BGPPassword(Spec, frozen=True, kw_only=True):
    secret_key_ref: SecretKeySelector | None = None


class BGPPeerSpec(Spec, frozen=True, kw_only=True):
    """Neither `node` nor `node_selector`: every node has the session ("global")."""

    node: Annotated[str, Limits(longest=NAME_MAX_CHARACTERS)] = ""
    node_selector: Selector = ""
    peer_ip: Annotated[str, Limits(longest=64)] = msgspec.field(default="", name="peerIP")
    """`10.0.0.1`, `10.0.0.1:1179`, `fd00::1` or `[fd00::1]:1179`."""
    peer_selector: Selector = ""
    """Peers are the nodes that it selects, in each family that both have."""
    local_workload_selector: Selector = ""
    """Peers are the workloads of the node that it selects."""
    as_number: int | None = None
    """Of the peer; 0 and None mean none given."""
    local_as_number: int | None = msgspec.field(default=None, name="localASNumber")
    keep_original_next_hop: bool = False
    """Old spelling of `next_hop_mode` Keep, for eBGP."""
    next_hop_mode: str | None = None
    password: BGPPassword | None = None
    source_address: str = ""
    """`UseNodeIP` (also when empty) or `None`: let the kernel choose."""
    max_restart_time: str | None = None
    keepalive_time: str | None = None
    num_allowed_local_as_numbers: int | None = msgspec.field(
        default=None, name="numAllowedLocalASNumbers"
    )
    ttl_security: int | None = None
    """How many hops away the peer may be; 0 and None switch the check off."""
    reachable_by: Annotated[str, Limits(longest=64)] = ""
    """The gateway through which `peer_ip` is reached."""
    filters: tuple[str, ...] = ()
    """Names of BGPFilters, applied in this order."""
    reverse_peering: str | None = None
    """`Auto` (also when None): nodes that `peer_selector` selects peer back. Or `Manual`."""


class BGPPeer(Resource, frozen=True, kw_only=True):
    spec: Annotated[BGPPeerSpec, PRESENT] = BGPPeerSpec()
