"""The impact of a change against the reference evaluator, packet by packet."""

from collections.abc import Iterator
from random import Random

import pytest
from msgspec.structs import replace
from tests.oracle.clusters import changed_world, make_world
from tests.oracle.host_worlds import host_world

from tortie.explain.address_classes import Pair, address_classes, pairs_between
from tortie.explain.impact import impact
from tortie.explain.oracle import Packet, State
from tortie.explain.packet_space import Service, failsafe_ports, merged_texts, services
from tortie.explain.trace import end_of, halves_of
from tortie.lib.ip import Network, parse_address
from tortie.model.endpoint import HostEndpoint, HostEndpointSpec, WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import Node

PACKETS = 300
"""Of all pieces; the reference takes about a millisecond each."""


@pytest.mark.parametrize("seed", [*range(25), *range(60, 65)])
def test_every_change_is_told_and_nothing_else(seed: int) -> None:
    before = make_world(seed)
    check_impact(before, changed_world(before, seed), seed)


@pytest.mark.parametrize("seed", range(14))
def test_hosts_are_judged_by_their_host_endpoints(seed: int) -> None:
    before, other = host_world(seed), host_world(seed + 100)
    after = changed_world(before, seed)
    random = Random(f"host change {seed}")
    kind = random.choice(("HostEndpoint", "FelixConfiguration", ""))
    names = {key for key in [*before, *other] if isinstance(key, ResourceKey)}
    for key in sorted(key for key in names if key.kind == kind)[:2]:
        after.pop(key, None)
        if key in other:
            after[key] = other[key]
    check_impact(before, after, seed)


CROWDED = (0, 2, 3, 4, 5)
"""Those with many policies cost more than they tell."""


def test_as_many_pairs_are_counted_as_there_are() -> None:
    """All that have addresses, two by two: what classes say of many is so of each."""
    counts = [found for seed in CROWDED for found in _counts(seed)]
    for seed, counted, differing in counts:
        assert counted == differing, seed
    assert len({counted for _, counted, _ in counts}) == len(CROWDED), "or it says little"


def _counts(seed: int) -> Iterator[tuple[int, int, int]]:
    """How many pairs change for one protocol and port: counted, and asked one by one."""
    random = Random(f"crowd {seed}")
    before = _crowded(host_world(seed) if seed % 2 else make_world(seed))
    policies = [key for key in before if isinstance(key, ResourceKey) and "Policy" in key.kind]
    gone = set(random.sample(policies, min(2, len(policies))))
    after = {key: resource for key, resource in before.items() if key not in gone}
    told = impact(before, after)
    addresses = sorted({parse_address(text) for one in before.values() for text in _texts(one)})
    ends = {address: end_of(before, address) for address in addresses}
    judged = [one for one in addresses if ends[one].workload or ends[one].host_endpoint]
    pieces = services(before, after)
    common = [piece for change in told for piece in change.services] or pieces[4]
    piece = random.choice([piece for piece in common if piece in pieces[4]] or pieces[4])
    packets = [
        _packet(source, destination, piece)
        for source in judged
        for destination in judged
        if source.family == destination.family == 4
        and source != destination
        and not (ends[source].address and ends[destination].address
                 and ends[source].host == ends[destination].host)
    ]  # fmt: skip
    differing = sum(_passes(before, one) != _passes(after, one) for one in packets)
    counted = sum(
        change.pairs
        for change in told
        if change.source.family == 4
        and change.source.members
        and change.destination.members
        and any(_covers(found, piece) for found in change.services)
    )
    yield seed, counted, differing


def _crowded(state: State) -> State:
    """With a dozen workloads that differ by role alone, and by a label that no selector asks for,
    on several hosts; and with hosts that are like one another."""
    crowd = dict(state)
    keys = [key for key, one in state.items() if isinstance(one, WorkloadEndpoint)]
    first = min(key for key in keys if isinstance(key, ResourceKey))
    resource = state[first]
    assert isinstance(resource, WorkloadEndpoint)
    for number in range(12):
        labels = {"role": "abc"[number % 3], "serial": str(number)}
        spec = replace(
            resource.spec, node=f"h{1 + number % 4}", ip_networks=(f"10.99.0.{number}/32",)
        )
        crowd[replace(first, name=f"{first.name}-{number}")] = replace(
            resource, metadata=replace(resource.metadata, labels=labels), spec=spec
        )
    for number in range(4):
        metadata = Metadata(name=f"more-{number}", labels={"role": "ab"[number % 2]})
        on_host = HostEndpointSpec(
            node=f"more-{number}", interface_name="eth0", expected_ips=(f"10.98.0.{number}",)
        )
        key = ResourceKey("HostEndpoint", metadata.name)
        crowd[key] = HostEndpoint(metadata=metadata, spec=on_host)
    return crowd


def _texts(resource: object) -> tuple[str, ...]:
    match resource:
        case WorkloadEndpoint():
            return resource.spec.ip_networks
        case HostEndpoint():
            return resource.spec.expected_ips
        case Node() if resource.spec.bgp is not None:
            found = (resource.spec.bgp.ipv4_address, resource.spec.bgp.ipv6_address)
            return tuple(text.partition("/")[0] for text in found if text)
    return ()


def _covers(wide: Service, piece: Service) -> bool:
    """Where doNotTrack policies and failsafe ports count there are more and smaller pieces; the
    packet of any is in one of those."""
    if wide.last_port is None or wide.destination_port is None or piece.destination_port is None:
        return wide[1:] == piece[1:]
    assert wide.source_port is not None
    assert wide.last_source_port is not None
    assert piece.source_port is not None
    return (
        wide.protocol == piece.protocol
        and wide.source_port <= piece.source_port <= wide.last_source_port
        and wide.destination_port <= piece.destination_port <= wide.last_port
    )


def _passes(state: State, packet: Packet) -> bool:
    return all(half.allowed for half in halves_of(state, packet))


def check_impact(before: State, after: State, seed: int) -> None:
    told = impact(before, after)
    for change in told:
        packet = change.packet()
        assert _passes(after, packet) == change.allowed
        assert _passes(before, packet) != change.allowed
    covered: dict[tuple[Network, Network], list[Service]] = {}
    for change in told:
        covered.setdefault(change.between[:2], []).extend(change.services)
    packets = _packets(before, after)
    for pair, piece in Random(seed).sample(packets, min(PACKETS, len(packets))):
        packet = _packet(pair.source, pair.destination, piece)
        differs = _passes(before, packet) != _passes(after, packet)
        assert differs == any(_covers(one, piece) for one in covered.get(pair[:2], ())), packet


def test_no_change_has_no_impact() -> None:
    for world in (make_world(3), host_world(3)):
        assert impact(world, dict(world)) == []


def _packets(before: State, after: State) -> list[tuple[Pair, Service]]:
    """One of every piece between all classes."""
    plain = services(before, after)
    at_hosts = services(before, after, failsafe_ports(before, after), answers=True)
    classes = address_classes(before, after)
    return [
        (pair, piece)
        for source in classes
        for destination in classes
        for pair in pairs_between(source, destination)
        for piece in (at_hosts if source.is_host or destination.is_host else plain)[source.family]
    ]


def _packet(source: Network, destination: Network, piece: Service) -> Packet:
    return Packet(
        source,
        destination,
        piece.protocol,
        piece.source_port,
        piece.destination_port,
        piece.icmp_type,
        piece.icmp_code,
    )


def test_neighbouring_ranges_are_told_as_one() -> None:
    before = make_world(1)
    pieces = [piece for piece in services(before, before)[4] if piece.protocol == 6]
    by_source = [piece for piece in pieces if piece.source_port == pieces[0].source_port]
    assert len(by_source) > 1
    (text,) = merged_texts(by_source)
    assert text.startswith("TCP")
    assert "," not in text
