"""Kinds as users name them, and the columns that tables show of each.

Cells are taken from resources as plain JSON, so that a table costs no import of the model.
Names and columns are calicoctl's. Source: Calico, calicoctl/calicoctl/resourcemgr.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

DEFAULT_AS_NUMBER = 64512

LIST_MAX_CHARACTERS = 80


class Column:
    """A title, and what of a resource stands under it.

    Attributes:
        cell: a path such as `spec.node`, or a function of the resource.
    """

    __slots__ = ("cell", "title", "wide_only")

    def __init__(
        self, title: str, cell: str | Callable[[Any], object], wide_only: bool = False
    ) -> None:
        self.title = title
        self.cell = cell
        self.wide_only = wide_only

    def of(self, resource: Any) -> str:
        """One line, whatever is in it: control characters do not reach the terminal."""
        value = at(resource, self.cell) if isinstance(self.cell, str) else self.cell(resource)
        text = _shown(value)
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def at(value: Any, path: str) -> Any:
    """What is at a path of names, or None."""
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def joined(values: object) -> str:
    if isinstance(values, dict):
        return ",".join(f"{name}={value}" for name, value in sorted(values.items()))
    return ",".join(map(_shown, values)) if isinstance(values, list) else _shown(values)


def _list(path: str) -> Callable[[Any], str]:
    return lambda resource: joined(at(resource, path))


def _short_list(path: str) -> Callable[[Any], str]:
    def cell(resource: Any) -> str:
        text = joined(at(resource, path))
        too_long = len(text) > LIST_MAX_CHARACTERS
        return f"{text[: LIST_MAX_CHARACTERS - 3]}..." if too_long else text

    return cell


def _or(path: str, default: object) -> Callable[[Any], object]:
    def cell(resource: Any) -> object:
        value = at(resource, path)
        return default if value in (None, "") else value

    return cell


def _count(path: str) -> Callable[[Any], object]:
    return lambda resource: len(at(resource, path) or ())


def _node_as_number(resource: Any) -> object:
    if at(resource, "spec.bgp") is None:
        return ""
    return at(resource, "spec.bgp.asNumber") or f"({DEFAULT_AS_NUMBER})"


def _peering_node(resource: Any) -> object:
    return at(resource, "spec.node") or at(resource, "spec.nodeSelector") or "(global)"


def _nats(resource: Any) -> str:
    nats = at(resource, "spec.ipNATs") or ()
    return ",".join(f"{at(nat, 'externalIP')}->{at(nat, 'internalIP')}" for nat in nats)


def _slice_ports(resource: Any) -> str:
    ports = at(resource, "spec.ports") or ()
    return ",".join(f"{at(port, 'port')}/{at(port, 'protocol') or 'TCP'}" for port in ports)


def _pod_selector(resource: Any) -> str:
    selector = at(resource, "spec.podSelector") or {}
    terms = [
        f"{name}={value}" for name, value in sorted((selector.get("matchLabels") or {}).items())
    ]
    for term in selector.get("matchExpressions") or ():
        values = f" ({joined(term.get('values'))})" if term.get("values") else ""
        terms.append(f"{term.get('key')} {term.get('operator')}{values}")
    return ",".join(terms) or "<all>"


_NAME = Column("NAME", "metadata.name")
NAMESPACE = Column("NAMESPACE", "metadata.namespace")
LABELS = Column("LABELS", lambda r: joined(at(r, "metadata.labels")) or "<none>")
_NETS = (_NAME, Column("NETS", _short_list("spec.nets"), True))
_POLICY = (
    _NAME,
    Column("TIER", _or("spec.tier", "default")),
    Column("ORDER", _or("spec.order", "<nil>"), True),
    Column("SELECTOR", "spec.selector", True),
)
COLUMNS: Mapping[str, Sequence[Column]] = {
    "BGPConfiguration": (
        _NAME,
        Column("LOGSEVERITY", "spec.logSeverityScreen"),
        Column("MESHENABLED", _or("spec.nodeToNodeMeshEnabled", "-")),
        Column("ASNUMBER", _or("spec.asNumber", "-")),
    ),
    "BGPFilter": (
        _NAME,
        Column("NUMEXPORTV4", _count("spec.exportV4")),
        Column("NUMIMPORTV4", _count("spec.importV4")),
        Column("NUMEXPORTV6", _count("spec.exportV6")),
        Column("NUMIMPORTV6", _count("spec.importV6")),
    ),
    "BGPPeer": (
        _NAME,
        Column("PEERIP", "spec.peerIP"),
        Column("NODE", _peering_node),
        Column("ASN", _or("spec.asNumber", 0)),
    ),
    "BlockAffinity": (
        _NAME,
        Column("NODE", "spec.node"),
        Column("CIDR", "spec.cidr"),
        Column("STATE", "spec.state", True),
    ),
    "CalicoNodeStatus": (
        _NAME,
        Column("NODE", "spec.node"),
        Column("CLASSES", _list("spec.classes"), True),
    ),
    "ClusterInformation": (
        _NAME,
        Column("CLUSTERGUID", "spec.clusterGUID"),
        Column("CLUSTERTYPE", "spec.clusterType"),
        Column("CALICOVERSION", "spec.calicoVersion"),
        Column("DATASTOREREADY", _or("spec.datastoreReady", "-")),
    ),
    "FelixConfiguration": (_NAME,),
    "GlobalNetworkPolicy": _POLICY,
    "GlobalNetworkSet": _NETS,
    "HostEndpoint": (
        _NAME,
        Column("NODE", "spec.node"),
        Column("INTERFACE", "spec.interfaceName", True),
        Column("IPS", _list("spec.expectedIPs"), True),
        Column("PROFILES", _list("spec.profiles"), True),
    ),
    "IPAMConfiguration": (
        _NAME,
        Column("STRICTAFFINITY", _or("spec.strictAffinity", False)),
        Column("AUTOALLOCATEBLOCKS", _or("spec.autoAllocateBlocks", True)),
        Column("MAXBLOCKSPERHOST", _or("spec.maxBlocksPerHost", 0), True),
    ),
    "IPPool": (
        _NAME,
        Column("CIDR", "spec.cidr"),
        Column("NAT", _or("spec.natOutgoing", False), True),
        Column("IPIPMODE", _or("spec.ipipMode", "Never"), True),
        Column("VXLANMODE", _or("spec.vxlanMode", "Never"), True),
        Column("DISABLED", _or("spec.disabled", False), True),
        Column("DISABLEBGPEXPORT", _or("spec.disableBGPExport", False), True),
        Column("SELECTOR", _or("spec.nodeSelector", "all()")),
        Column("ASSIGNMENTMODE", _or("spec.assignmentMode", "Automatic"), True),
    ),
    "IPReservation": (_NAME, Column("CIDRS", _short_list("spec.reservedCIDRs"), True)),
    "KubeControllersConfiguration": (_NAME,),
    "KubernetesEndpointSlice": (
        _NAME,
        Column("SERVICE", "spec.service"),
        Column("PORTS", _slice_ports),
        Column("ENDPOINTS", _count("spec.endpoints")),
    ),
    "KubernetesService": (
        _NAME,
        Column("CLUSTERIPS", _list("spec.clusterIPs")),
        Column("EXTERNALIPS", _list("spec.externalIPs")),
        Column("LOADBALANCERIPS", _list("spec.loadBalancerIPs")),
    ),
    "LiveMigration": (_NAME,),
    "NetworkPolicy": _POLICY,
    "NetworkSet": _NETS,
    "Node": (
        _NAME,
        Column("ASN", _node_as_number, True),
        Column("IPV4", "spec.bgp.ipv4Address", True),
        Column("IPV6", "spec.bgp.ipv6Address", True),
    ),
    "Profile": (_NAME, Column("LABELS", _list("spec.labelsToApply"), True)),
    "StagedGlobalNetworkPolicy": _POLICY,
    "StagedKubernetesNetworkPolicy": (_NAME, Column("PODSELECTOR", _pod_selector, True)),
    "StagedNetworkPolicy": _POLICY,
    "Tier": (_NAME, Column("ORDER", _or("spec.order", "<nil>"))),
    "WorkloadEndpoint": (
        Column("NAME", "metadata.name", True),
        Column("WORKLOAD", lambda r: at(r, "spec.workload") or at(r, "spec.pod")),
        Column("NODE", "spec.node"),
        Column("NETWORKS", _list("spec.ipNetworks")),
        Column("INTERFACE", "spec.interfaceName"),
        Column("PROFILES", _list("spec.profiles"), True),
        Column("NATS", _nats, True),
    ),
}
"""By kind, in the order of the wide table."""

_SHORT = {
    "BGPConfiguration": ("bgpconfig", "bgpconfigs"),
    "BGPFilter": ("bgpf", "bgpfs", "bf", "bfs"),
    "BGPPeer": ("bgpp", "bgpps", "bp", "bps"),
    "BlockAffinity": ("affinity", "affinities"),
    "CalicoNodeStatus": ("nodestatus", "nodestatuses"),
    "ClusterInformation": ("clusterinfo", "clusterinfos"),
    "FelixConfiguration": ("felixconfig", "felixconfigs"),
    "GlobalNetworkPolicy": ("gnp", "gnps"),
    "GlobalNetworkSet": ("gnetset", "gnetsets"),
    "HostEndpoint": ("hep", "heps"),  # codespell:ignore heps
    "IPAMConfiguration": ("ipamconfig", "ipamconfigs"),
    "IPPool": ("ipp", "ipps", "pool", "pools"),
    "IPReservation": ("reservation", "reservations"),
    "KubeControllersConfiguration": ("kubecontrollersconfig", "kubecontrollersconfigs"),
    "KubernetesEndpointSlice": ("endpointslice", "endpointslices"),
    "KubernetesService": ("service", "services"),
    "LiveMigration": (),
    "NetworkPolicy": ("np", "nps", "pol", "pols", "policy", "policies"),
    "NetworkSet": ("netset", "netsets"),
    "Node": ("no", "nos"),
    "Profile": ("pro", "pros"),
    "StagedGlobalNetworkPolicy": ("sgnp", "sgnps"),
    "StagedKubernetesNetworkPolicy": (
        "stagedkubernetespolicy", "stagedkubernetespolicies", "sknp", "skpol", "skpols",
    ),
    "StagedNetworkPolicy": ("stagedpolicy", "stagedpolicies", "snp", "spol", "spols"),
    "Tier": (),
    "WorkloadEndpoint": ("wep", "weps"),
}  # fmt: skip

_IRREGULAR = {
    "BlockAffinity": "blockaffinities",
    "CalicoNodeStatus": "caliconodestatuses",
    "GlobalNetworkPolicy": "globalnetworkpolicies",
    "NetworkPolicy": "networkpolicies",
    "StagedGlobalNetworkPolicy": "stagedglobalnetworkpolicies",
    "StagedKubernetesNetworkPolicy": "stagedkubernetesnetworkpolicies",
    "StagedNetworkPolicy": "stagednetworkpolicies",
}


def plural(kind: str) -> str:
    """As in datastore paths: `networkpolicies`. `tortie.model.keys.PLURALS` has the same."""
    return _IRREGULAR.get(kind, f"{kind.lower()}s")


NAMESPACED = frozenset(
    {
        "KubernetesEndpointSlice",
        "KubernetesService",
        "LiveMigration",
        "NetworkPolicy",
        "NetworkSet",
        "StagedKubernetesNetworkPolicy",
        "StagedNetworkPolicy",
        "WorkloadEndpoint",
    }
)
"""The same as `tortie.model.keys.NAMESPACED`."""


def _aliases() -> Iterable[tuple[str, str]]:
    for kind, short in _SHORT.items():
        for alias in (kind.lower(), plural(kind), *short):
            yield alias, kind


ALIASES: Mapping[str, str] = dict(_aliases())
"""Lower-case name → kind."""


def kind_named(text: str) -> str:
    """
    Raises:
        InvalidInput: no such kind; with the nearest name.
    """
    name = text.lower()
    if name in ALIASES:
        return ALIASES[name]
    from tortie.ctl.grammar import mistake, nearest

    best = nearest(name, list(ALIASES))
    hint = f"did you mean {best!r}?" if best else f"there are: {', '.join(sorted(COLUMNS))}"
    raise mistake(f"resource type {text!r} is not supported; {hint}")
