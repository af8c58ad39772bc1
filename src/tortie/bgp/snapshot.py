"""What BIRD's configuration is a function of, and the mesh as peers."""

from collections.abc import Mapping

import msgspec

from tortie.desired.endpoint import Host
from tortie.lib.ip import Network

DEFAULT_AS_NUMBER = 64512
"""Calico's default, the first of the 16-bit private range (RFC 6996)."""

DEFAULT_LISTEN_PORT = 179


class Peer(msgspec.Struct, frozen=True, order=True):
    """One BGP session of this host."""

    address: Network
    as_number: int
    port: int = DEFAULT_LISTEN_PORT


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that decides this host's BGP; equal snapshots render equal bytes."""

    ipv4: Network | None
    """Our own address; None means that no IPv4 session is possible."""
    ipv6: Network | None
    as_number: int = DEFAULT_AS_NUMBER
    listen_port: int = DEFAULT_LISTEN_PORT
    peers: tuple[Peer, ...] = ()
    pools: tuple[Network, ...] = ()
    """Only what lies in a pool is learnt from peers and given to the kernel."""
    exported_pools: tuple[Network, ...] = ()
    """Only what lies in one of these is announced."""
    own_blocks: tuple[Network, ...] = ()
    """Announced whole; the addresses in them never singly."""
    route_protocol: int = 80
    """The protocol number of the agent's routes, which are what we announce."""


def mesh_peers(own_name: str, hosts: Mapping[str, Host], default_as: int) -> tuple[Peer, ...]:
    """One session to every other host of the cluster, per family that both have."""
    own = hosts.get(own_name)
    if own is None:
        return ()
    peers = []
    for name, host in hosts.items():
        if name == own_name:
            continue
        as_number = host.as_number or default_as
        if own.ipv4 is not None and host.ipv4 is not None and own.ipv4 != host.ipv4:
            peers.append(Peer(host.ipv4, as_number))
        if own.ipv6 is not None and host.ipv6 is not None and own.ipv6 != host.ipv6:
            peers.append(Peer(host.ipv6, as_number))
    return tuple(sorted(peers))
