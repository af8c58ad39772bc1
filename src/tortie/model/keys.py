"""Datastore keys: typed names for what is stored where.

Paths are exactly Calico's, so that its own tools can read and write beside
us. Parts of IPAM's and Felix's paths are escaped (`%` as `%25`, `/` as `%2f`);
resource names need no escaping, their syntax is checked.
"""

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network

ROOT = "/calico/"
RESOURCES = "/calico/resources/v3/projectcalico.org/"
IPAM = "/calico/ipam/v2/"
FELIX = "/calico/felix/v2/"
FELIX_V1 = "/calico/felix/v1/"
"""Where the status of host endpoints is."""

PLURALS = {
    "BGPConfiguration": "bgpconfigurations",
    "BGPFilter": "bgpfilters",
    "BGPPeer": "bgppeers",
    "BlockAffinity": "blockaffinities",
    "CalicoNodeStatus": "caliconodestatuses",
    "ClusterInformation": "clusterinformations",
    "FelixConfiguration": "felixconfigurations",
    "GlobalNetworkPolicy": "globalnetworkpolicies",
    "GlobalNetworkSet": "globalnetworksets",
    "HostEndpoint": "hostendpoints",
    "IPAMConfiguration": "ipamconfigurations",
    "IPPool": "ippools",
    "IPReservation": "ipreservations",
    "KubeControllersConfiguration": "kubecontrollersconfigurations",
    "KubernetesEndpointSlice": "kubernetesendpointslices",
    "KubernetesService": "kubernetesservices",
    "LiveMigration": "livemigrations",
    "NetworkPolicy": "networkpolicies",
    "NetworkSet": "networksets",
    "Node": "nodes",
    "Profile": "profiles",
    "StagedGlobalNetworkPolicy": "stagedglobalnetworkpolicies",
    "StagedKubernetesNetworkPolicy": "stagedkubernetesnetworkpolicies",
    "StagedNetworkPolicy": "stagednetworkpolicies",
    "Tier": "tiers",
    "WorkloadEndpoint": "workloadendpoints",
}
KINDS = {plural: kind for kind, plural in PLURALS.items()}
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


class ResourceKey(msgspec.Struct, frozen=True, order=True):
    """Names one resource in the whole cluster."""

    kind: str
    name: str
    namespace: str = ""
    """Empty for kinds that have none."""

    @property
    def path(self) -> str:
        scope = f"{self.namespace}/" if self.namespace else ""
        return f"{RESOURCES}{PLURALS[self.kind]}/{scope}{self.name}"

    def __str__(self) -> str:
        scope = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind}({scope}{self.name})"


class BlockKey(msgspec.Struct, frozen=True, order=True):
    cidr: Network

    @property
    def path(self) -> str:
        return f"{IPAM}assignment/ipv{self.cidr.family}/block/{_dashed(self.cidr)}"

    def __str__(self) -> str:
        return f"IPAM block {self.cidr}"


class AffinityKey(msgspec.Struct, frozen=True, order=True):
    host: str
    cidr: Network
    virtual: bool = False
    """Held by something that is not a host, such as the load balancer."""

    @property
    def path(self) -> str:
        owner = "virtual" if self.virtual else "host"
        return f"{IPAM}{owner}/{escape(self.host)}/ipv{self.cidr.family}/block/{_dashed(self.cidr)}"

    def __str__(self) -> str:
        return f"affinity of {self.host} for {self.cidr}"


class HandleKey(msgspec.Struct, frozen=True, order=True):
    handle_id: str

    @property
    def path(self) -> str:
        return f"{IPAM}handle/{escape(self.handle_id)}"

    def __str__(self) -> str:
        return f"IPAM handle {self.handle_id}"


class IPAMConfigKey(msgspec.Struct, frozen=True, order=True):
    @property
    def path(self) -> str:
        return f"{IPAM}config"

    def __str__(self) -> str:
        return f"IPAM's settings ({self.path})"


class IPAMHostKey(msgspec.Struct, frozen=True, order=True):
    host: str

    @property
    def path(self) -> str:
        return f"{IPAM}host/{escape(self.host)}"

    def __str__(self) -> str:
        return f"IPAM's mark of host {self.host}"


Key = ResourceKey | BlockKey | AffinityKey | HandleKey | IPAMConfigKey | IPAMHostKey


class HostStatusKey(msgspec.Struct, frozen=True, order=True):
    """An agent's report. With a lease it lives as long as the agent reports."""

    host: str
    region: str = "no-region"
    last: bool = False
    """The copy without a lease: when the agent was last heard of."""

    @property
    def path(self) -> str:
        leaf = "last_reported_status" if self.last else "status"
        return f"{FELIX}{self.region}/host/{escape(self.host)}/{leaf}"


class EndpointStatusKey(msgspec.Struct, frozen=True, order=True):
    host: str
    orchestrator: str
    workload: str
    """`<namespace>/<workload>`."""
    endpoint: str
    region: str = "no-region"

    @property
    def path(self) -> str:
        return (
            f"{FELIX}{self.region}/host/{escape(self.host)}/workload/{escape(self.orchestrator)}"
            f"/{escape(self.workload)}/endpoint/{escape(self.endpoint)}"
        )


class HostEndpointStatusKey(msgspec.Struct, frozen=True, order=True):
    host: str
    name: str

    @property
    def path(self) -> str:
        return f"{FELIX_V1}host/{escape(self.host)}/endpoint/{escape(self.name)}"


def parse_key(path: str) -> Key | None:
    """The key that `path` names; None when it is none of ours (so: ignore it)."""
    if path.startswith(RESOURCES):
        return _parse_resource(path[len(RESOURCES) :].split("/"))
    if path.startswith(IPAM):
        try:
            return _parse_ipam(path[len(IPAM) :].split("/"))
        except InvalidInput:
            return None
    return None


def _parse_resource(parts: list[str]) -> ResourceKey | None:
    kind = KINDS.get(parts[0])
    if kind is None or not all(parts):
        return None
    if kind in NAMESPACED:
        return ResourceKey(kind, parts[2], parts[1]) if len(parts) == 3 else None
    return ResourceKey(kind, parts[1]) if len(parts) == 2 else None


def _parse_ipam(parts: list[str]) -> Key | None:
    match parts:
        case ["assignment", "ipv4" | "ipv6", "block", cidr]:
            return BlockKey(_undashed(cidr))
        case ["host" | "virtual" as owner, host, "ipv4" | "ipv6", "block", cidr]:
            return AffinityKey(unescape(host), _undashed(cidr), owner == "virtual")
        case ["handle", handle]:
            return HandleKey(unescape(handle))
        case ["config"]:
            return IPAMConfigKey()
        case ["host", host]:
            return IPAMHostKey(unescape(host))
    return None


def escape(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2f")


def unescape(part: str) -> str:
    return part.replace("%2f", "/").replace("%25", "%")


def _dashed(cidr: Network) -> str:
    return f"{cidr.address_text}-{cidr.length}"


def _undashed(text: str) -> Network:
    return parse_network(text.replace("-", "/"), strict=True)
