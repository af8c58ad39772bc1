"""Which part of the datastore each component needs: one role of etcd for each. Pure.

Narrower than what Calico documents, where that costs nothing: agents write neither pools,
settings nor the ready flag; nobody but an administrator does. Policy is read-only for hosts.

A role may be made for one host alone. What belongs to a host is then out of reach of the
others: its status, its node, its claims of blocks. Blocks and handles are not, since hosts
borrow addresses of one another. Workload endpoints are named after their host inside their
namespace, so their keys can be told apart only where the namespaces are known.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tortie.datastore.etcd.messages import Access, Permission, range_end
from tortie.model.keys import (
    FELIX,
    FELIX_V1,
    IPAM,
    PLURALS,
    RESOURCES,
    ROOT,
    ResourceKey,
    escape,
)

POLICY_KINDS = (
    "GlobalNetworkPolicy",
    "GlobalNetworkSet",
    "NetworkPolicy",
    "NetworkSet",
    "Profile",
    "StagedGlobalNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "StagedNetworkPolicy",
    "Tier",
)
CONTROLLED_KINDS = (
    "GlobalNetworkPolicy",
    "HostEndpoint",
    "KubeControllersConfiguration",
    "NetworkPolicy",
    "Node",
    "Profile",
    "WorkloadEndpoint",
)
"""What follows from another orchestrator's objects."""

NEUTRON_KINDS = (
    "ClusterInformation",
    "FelixConfiguration",
    "LiveMigration",
    "NetworkPolicy",
    "Tier",
    "WorkloadEndpoint",
)
"""What Neutron's ports and security groups become, and what agents need for them."""

DHCP = "/calico/dhcp/"
"""Subnets, for the DHCP agents."""


class Role(NamedTuple):
    name: str
    summary: str
    permissions: frozenset[Permission]


def cluster_roles() -> list[Role]:
    """Those that are the same for every host."""
    everything_read = frozenset([_read(RESOURCES), _read(IPAM), _read(FELIX), _read(FELIX_V1)])
    return [
        agent_role(),
        cni_role(),
        Role(
            "tortie-controllers",
            "what follows from objects of an orchestrator",
            frozenset([_read(RESOURCES), _write(IPAM), *map(_write_kind, CONTROLLED_KINDS)]),
        ),
        Role(
            "tortie-neutron",
            "neutron-server: its ports, security groups and subnets",
            frozenset(
                [
                    _read(RESOURCES),
                    _read(FELIX),
                    _write(DHCP),
                    *(_write(f"{ROOT}{part}/") for part in ("compaction", "openstack")),
                    *map(_write_kind, NEUTRON_KINDS),
                ]
            ),
        ),
        Role(
            "tortie-dhcp",
            "OpenStack's DHCP agents",
            frozenset([_read(RESOURCES), _read(DHCP)]),
        ),
        Role(
            "tortie-policy-editor",
            "people who write policy: policies, sets, profiles and tiers",
            everything_read | {_write_kind(kind) for kind in POLICY_KINDS},
        ),
        Role("tortie-read-only", "people and programs that only look", everything_read),
        Role("tortie-admin", "people who may do everything here", frozenset([_write(ROOT)])),
    ]


def host_roles(host: str, namespaces: Sequence[str] = (), region: str = "") -> list[Role]:
    """The agent's and the plugins' roles for one host alone.

    Args:
        namespaces: of its workload endpoints; if none is given, it may write those of all hosts.
        region: OpenStack's, if the agents are told one.
    """
    return [agent_role(host, region), cni_role(host, namespaces)]


def agent_role(host: str = "", region: str = "") -> Role:
    """Enforces and reports; `host` empty means any."""
    place = f"region-{region}" if region else "no-region"
    own = [
        _write(f"{FELIX}{escape(place)}/host/{escape(host)}/" if host else FELIX),
        _write(f"{FELIX_V1}host/{escape(host)}/" if host else FELIX_V1),
        _write_one(ResourceKey("Node", host).path) if host else _write_kind("Node"),
        # Named as whoever asks for one likes.
        _write_kind("CalicoNodeStatus"),
    ]
    return Role(
        _named("tortie-agent", host),
        f"the agent of {host or 'a host'}",
        frozenset([_read(RESOURCES), _read(IPAM), *own]),
    )


def cni_role(host: str = "", namespaces: Sequence[str] = ()) -> Role:
    """Brings workloads in: addresses, endpoints, and the profile of their network.

    On top of `agent_role`, where the agent itself brings them in.
    """
    own = [_write(f"{IPAM}assignment/"), _write(f"{IPAM}handle/"), _write_kind("Profile")]
    if host:
        claims = f"{IPAM}host/{escape(host)}"
        own += [_write_one(claims), _write(f"{claims}/")]
        own += [_endpoints(host, namespace) for namespace in namespaces]
    else:
        own.append(_write(f"{IPAM}host/"))
    if not (host and namespaces):
        own.append(_write_kind("WorkloadEndpoint"))
    kinds = ("ClusterInformation", "IPPool", "IPReservation", "Node")
    read = [_read(IPAM), *(_read(f"{RESOURCES}{PLURALS[kind]}/") for kind in kinds)]
    return Role(
        _named("tortie-cni", host),
        f"bringing workloads in on {host or 'a host'}; beside the agent's",
        frozenset([*read, *own]),
    )


def _endpoints(host: str, namespace: str) -> Permission:
    """Workload endpoints of exactly this host.

    Names begin with the host's, dashes doubled, and one dash. After that dash another one would
    be a host whose name goes on, so the range begins behind it.
    """
    stem = f"{RESOURCES}{PLURALS['WorkloadEndpoint']}/{namespace}/{host.replace('-', '--')}-"
    return Permission(Access.READ_WRITE, f"{stem}.".encode(), range_end(stem.encode()))


def _named(role: str, host: str) -> str:
    return f"{role}-{host}" if host else role


def _read(prefix: str) -> Permission:
    return Permission(Access.READ, prefix.encode(), range_end(prefix.encode()))


def _write(prefix: str) -> Permission:
    return Permission(Access.READ_WRITE, prefix.encode(), range_end(prefix.encode()))


def _write_kind(kind: str) -> Permission:
    return _write(f"{RESOURCES}{PLURALS[kind]}/")


def _write_one(key: str) -> Permission:
    return Permission(Access.READ_WRITE, key.encode())
