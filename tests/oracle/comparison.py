"""Seeds to worlds, packets and what the reference evaluator says of them; and how to say more."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec
from tests.graph.resources import State
from tests.oracle.clusters import changed_world, make_packets, make_world, same_theme, theme_of

from tortie.explain.oracle import Packet, decide
from tortie.model.keys import Key
from tortie.model.metadata import Metadata
from tortie.model.node import Node

CHANGES = 2
"""How often each world changes a little before the next one comes."""


class Case(NamedTuple):
    """One state of a cluster, with packets and their fate."""

    name: str
    """The seed, and how many changes later."""
    state: State
    packets: list[Packet]
    expected: list[bool]


@lru_cache(maxsize=1024)
def cases(seed: int, packet_count: int) -> tuple[Case, ...]:
    """A world and its changes: the same ones for the same seed."""
    return tuple(_cases(seed, packet_count))


def _cases(seed: int, packet_count: int) -> Iterator[Case]:
    state = make_world(seed)
    for step in range(CHANGES + 1):
        packets = make_packets(state, seed * 10 + step, packet_count)
        expected = [decide(state, packet).allowed for packet in packets]
        yield Case(f"seed {seed} ({theme_of(seed)}), change {step}", state, packets, expected)
        state = changed_world(state, same_theme(seed, 1000 + step))


def differences(before: State, after: State) -> dict[Key, object | None]:
    """What a watch would tell: new and changed objects, and None for those that are gone."""
    changes: dict[Key, object | None] = {key: None for key in before if key not in after}
    changes |= {key: value for key, value in after.items() if before.get(key) != value}
    return changes


def explain(case: Case, packet: Packet, *, allowed: bool) -> str:
    """A mismatch, for whoever must find out who is wrong."""
    decision = decide(case.state, packet)
    lines = [f"{case.name}: {packet_text(packet)}"]
    lines.append(f"enforced: {_FATES[allowed]}, reference: {_FATES[decision.allowed]}, because")
    for step in decision.steps:
        what = step.policy or f"end of tier {step.tier}"
        lines.append(f"    {step.way} of {step.endpoint.name}: {what} {step.rule}: {step.action}")
    for key, value in sorted(case.state.items(), key=str):
        if not isinstance(value, Node):
            spec = msgspec.json.encode(getattr(value, "spec", None)).decode()
            lines.append(f"  {key} {getattr(value, 'metadata', Metadata()).labels} {spec}")
    return "\n".join(lines)


def packet_text(packet: Packet) -> str:
    ends = (
        f"{address.address_text}" + ("" if port is None else f" port {port}")
        for address, port in (
            (packet.source, packet.source_port),
            (packet.destination, packet.destination_port),
        )
    )
    icmp = "" if packet.icmp_type is None else f" {packet.icmp_type}/{packet.icmp_code}"
    return f"protocol {packet.protocol}{icmp} from {' to '.join(ends)}"


_FATES = {True: "passes", False: "dropped"}
