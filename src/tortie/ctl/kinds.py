"""Kinds as users name them, and the columns that tables show of each.

Names and columns are calicoctl's. Source: Calico, calicoctl/calicoctl/resourcemgr.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tortie.lib.errors import InvalidInput
from tortie.model.documents import nearest
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import KINDS, PLURALS
from tortie.model.node import Node
from tortie.model.policy import Profile

DEFAULT_AS_NUMBER = 64512

NETS_MAX_CHARACTERS = 80


class Column(NamedTuple):
    title: str
    cell: Callable[[Any], object]
    wide_only: bool = False


def _order(resource: Any) -> object:
    order = resource.spec.order
    return "<nil>" if order is None else int(order) if order == int(order) else order


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def _nets(resource: Any) -> str:
    text = _joined(resource.spec.nets)
    return text if len(text) <= NETS_MAX_CHARACTERS else f"{text[: NETS_MAX_CHARACTERS - 3]}..."


def _as_number(node: Node) -> object:
    if node.spec.bgp is None:
        return ""
    return node.spec.bgp.as_number or f"({DEFAULT_AS_NUMBER})"


def _nats(endpoint: WorkloadEndpoint) -> str:
    return _joined([f"{nat.external_ip}->{nat.internal_ip}" for nat in endpoint.spec.ip_nats])


def _labels(profile: Profile) -> str:
    return _joined([f"{k}={v}" for k, v in sorted(profile.spec.labels_to_apply.items())])


def _flag(value: bool | None) -> str:
    return "-" if value is None else str(value).lower()


_NAME = Column("NAME", lambda r: r.metadata.name)
NAMESPACE = Column("NAMESPACE", lambda r: r.metadata.namespace)
_NETS = (_NAME, Column("NETS", _nets, True))
_POLICY = (
    _NAME,
    Column("TIER", lambda r: r.spec.tier),
    Column("ORDER", _order, True),
    Column("SELECTOR", lambda r: r.spec.selector, True),
)
_CLUSTER = (
    _NAME,
    Column("CLUSTERGUID", lambda r: r.spec.cluster_guid),
    Column("CLUSTERTYPE", lambda r: r.spec.cluster_type),
    Column("CALICOVERSION", lambda r: r.spec.calico_version),
    Column("DATASTOREREADY", lambda r: _flag(r.spec.datastore_ready)),
)
_POOL = (
    _NAME,
    Column("CIDR", lambda r: r.spec.cidr),
    Column("NAT", lambda r: _flag(r.spec.nat_outgoing), True),
    Column("IPIPMODE", lambda r: r.spec.ipip_mode, True),
    Column("VXLANMODE", lambda r: r.spec.vxlan_mode, True),
    Column("DISABLED", lambda r: _flag(r.spec.disabled), True),
    Column("DISABLEBGPEXPORT", lambda r: _flag(r.spec.disable_bgp_export), True),
    Column("SELECTOR", lambda r: r.spec.node_selector),
    Column("ASSIGNMENTMODE", lambda r: r.spec.assignment_mode, True),
)
_BGP = (
    _NAME,
    Column("LOGSEVERITY", lambda r: r.spec.log_severity_screen or ""),
    Column("MESHENABLED", lambda r: _flag(r.spec.node_to_node_mesh_enabled)),
    Column("ASNUMBER", lambda r: r.spec.as_number or "-"),
)
_BGP_PEER = (
    _NAME,
    Column("PEERIP", lambda r: r.spec.peer_ip),
    Column("NODE", lambda r: r.spec.node or r.spec.node_selector or "(global)"),
    Column("ASN", lambda r: r.spec.as_number or "-"),
)
_WORKLOAD_ENDPOINT = (
    Column("NAME", lambda r: r.metadata.name, True),
    Column("WORKLOAD", lambda r: r.spec.workload or r.spec.pod),
    Column("NODE", lambda r: r.spec.node),
    Column("NETWORKS", lambda r: _joined(r.spec.ip_networks)),
    Column("INTERFACE", lambda r: r.spec.interface_name),
    Column("PROFILES", lambda r: _joined(r.spec.profiles), True),
    Column("NATS", _nats, True),
)
_HOST_ENDPOINT = (
    _NAME,
    Column("NODE", lambda r: r.spec.node),
    Column("INTERFACE", lambda r: r.spec.interface_name, True),
    Column("IPS", lambda r: _joined(r.spec.expected_ips), True),
    Column("PROFILES", lambda r: _joined(r.spec.profiles), True),
)


COLUMNS: Mapping[str, Sequence[Column]] = {
    "BGPConfiguration": _BGP,
    "BGPFilter": (_NAME,),
    "BGPPeer": _BGP_PEER,
    "BlockAffinity": (_NAME,),
    "CalicoNodeStatus": (_NAME,),
    "ClusterInformation": _CLUSTER,
    "FelixConfiguration": (_NAME,),
    "GlobalNetworkPolicy": _POLICY,
    "GlobalNetworkSet": _NETS,
    "HostEndpoint": _HOST_ENDPOINT,
    "IPAMConfiguration": (_NAME,),
    "IPPool": _POOL,
    "IPReservation": (_NAME,),
    "KubeControllersConfiguration": (_NAME,),
    "LiveMigration": (_NAME,),
    "NetworkPolicy": _POLICY,
    "NetworkSet": _NETS,
    "Node": (
        _NAME,
        Column("ASN", _as_number, True),
        Column("IPV4", lambda r: r.spec.bgp.ipv4_address if r.spec.bgp else "", True),
        Column("IPV6", lambda r: r.spec.bgp.ipv6_address if r.spec.bgp else "", True),
    ),
    "StagedGlobalNetworkPolicy": _POLICY,
    "StagedKubernetesNetworkPolicy": (_NAME,),
    "StagedNetworkPolicy": _POLICY,
    "Profile": (_NAME, Column("LABELS", _labels, True)),
    "Tier": (_NAME, Column("ORDER", _order)),
    "WorkloadEndpoint": _WORKLOAD_ENDPOINT,
}
"""By kind, in the order of the wide table."""

_SHORT = {
    "BGPConfiguration": ("bgpconfig", "bgpconfigs"),
    "BGPFilter": (),
    "BGPPeer": ("bgpp", "bgpps"),
    "BlockAffinity": (),
    "CalicoNodeStatus": (),
    "ClusterInformation": ("clusterinfo", "clusterinfos"),
    "FelixConfiguration": ("felixconfig", "felixconfigs"),
    "GlobalNetworkPolicy": ("gnp", "gnps"),
    "GlobalNetworkSet": ("gnetset", "gnetsets"),
    "HostEndpoint": ("hep", "heps"),  # codespell:ignore heps
    "IPAMConfiguration": ("ipamconfig", "ipamconfigs"),
    "IPReservation": (),
    "KubeControllersConfiguration": ("kubecontrollersconfig", "kubecontrollersconfigs"),
    "LiveMigration": (),
    "IPPool": ("ipp", "ipps", "pool", "pools"),
    "NetworkPolicy": ("np", "nps", "pol", "pols", "policy", "policies"),
    "NetworkSet": ("netset", "netsets"),
    "Node": ("no", "nos"),
    "Profile": ("pro", "pros"),
    "StagedGlobalNetworkPolicy": ("sgnp", "sgnps"),
    "StagedKubernetesNetworkPolicy": ("sknp", "sknps"),
    "StagedNetworkPolicy": ("snp", "snps"),
    "Tier": (),
    "WorkloadEndpoint": ("wep", "weps"),
}

ALIASES: Mapping[str, str] = {
    alias: kind for kind, short in _SHORT.items() for alias in (kind.lower(), PLURALS[kind], *short)
}
"""Lower-case name → kind."""


def kind_named(text: str) -> str:
    """
    Raises:
        InvalidInput: no such kind; with the nearest name.
    """
    name = text.lower()
    if name in ALIASES:
        return ALIASES[name]
    if name in KINDS or name in map(str.lower, PLURALS):
        raise InvalidInput(f"kind {text!r} is not supported yet")
    best = nearest(name, ALIASES)
    hint = f"did you mean {best!r}?" if best else f"there are: {', '.join(sorted(COLUMNS))}"
    raise InvalidInput(f"unknown kind {text!r}; {hint}")
