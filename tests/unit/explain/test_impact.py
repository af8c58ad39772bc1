"""The impact of a change against the reference evaluator, packet by packet."""

from random import Random

import pytest
from tests.oracle.clusters import changed_world, make_world

from tortie.explain.impact import Change, impact
from tortie.explain.oracle import Packet, State, decide
from tortie.explain.packet_space import (
    Service,
    address_classes,
    merged_texts,
    services,
)
from tortie.lib.ip import Network

PACKETS = 300
"""Of all pieces; the reference takes about a millisecond each."""


@pytest.mark.parametrize("seed", [*range(25), *range(60, 65)])
def test_every_change_is_told_and_nothing_else(seed: int) -> None:
    before = make_world(seed)
    after = changed_world(before, seed)
    told = impact(before, after)
    for change in told:
        packet = change.packet()
        assert decide(after, packet).allowed == change.allowed
        assert decide(before, packet).allowed != change.allowed
    covered = _covered(before, after, told)
    packets = _packets(before, after)
    for packet in Random(seed).sample(packets, min(PACKETS, len(packets))):
        differs = decide(before, packet).allowed != decide(after, packet).allowed
        assert differs == (packet in covered), packet


def test_no_change_has_no_impact() -> None:
    world = make_world(3)
    assert impact(world, dict(world)) == []


def _packets(before: State, after: State) -> list[Packet]:
    """One packet of every piece between all classes."""
    pieces = services(before, after)
    found = []
    classes = address_classes(before, after)
    for source in classes:
        for destination in classes:
            to = destination.address if source != destination else destination.other
            if source.family != destination.family or to is None:
                continue
            if not source.members and not destination.members:
                continue
            found += [_packet(source.address, to, piece) for piece in pieces[source.family]]
    return found


def _covered(before: State, after: State, told: list[Change]) -> set[Packet]:
    found = set()
    for change in told:
        same = change.source == change.destination
        to = change.destination.other if same else change.destination.address
        assert to is not None
        found |= {_packet(change.source.address, to, piece) for piece in change.services}
    return found


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
