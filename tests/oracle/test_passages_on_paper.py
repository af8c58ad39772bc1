"""The rules for host endpoints mean what the reference evaluator says, packet by packet.

As `test_evaluator`, for packets on their ways through one host: to it, from it, and passing by,
with destination NAT on the way or without.
"""

import asyncio
from pathlib import Path

import pytest
from tests.graph.resources import State
from tests.oracle.evaluator import Ruleset, Skb
from tests.oracle.frames import ETHERNET_BYTES, frame
from tests.oracle.host_worlds import host_interfaces, host_world, passages
from tests.oracle.paper import NoConnections, without_sysctls
from tests.oracle.wire_nft import WireNft

from tortie.calc.graph import Graph
from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.settings import EndpointToHostAction, ProtoPort, Settings
from tortie.explain.matching import protocol_number
from tortie.explain.oracle import Packet, workload_with
from tortie.explain.passage import (
    HostSettings,
    Passage,
    decide_passage,
    settings_of,
    workload_at,
)
from tortie.kernel.nft.constants import CtState, CtStatus, Hook
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.fake import FakeRtnl
from tortie.kernel.rtnl.link import VethPeer
from tortie.lib.ip import parse_network
from tortie.model.felix_configuration import ProtoPort as StoredPort

HOST = "h1"
SEEDS_PER_CHUNK = 40
CHUNKS = 4
PACKETS = 60
BEFORE_NAT, FROM_NAT = range(-400, -100), range(-100, 400)
ELSEWHERE = b"nowhere".ljust(16, b"\0")
"""An interface that no host endpoint is for by name."""


@pytest.fixture(autouse=True)
def on_paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_sysctls(monkeypatch, tmp_path)


def _ports(ports: tuple[StoredPort, ...]) -> tuple[ProtoPort, ...]:
    return tuple(
        ProtoPort(
            protocol_number(one.protocol or "tcp"),
            one.port,
            parse_network(one.net) if one.net else None,
        )
        for one in ports
    )


def settings_for(found: HostSettings, *, seen: bool) -> Settings:
    action: dict[str, EndpointToHostAction] = {
        "Drop": "Drop",
        "Return": "Return",
        "Accept": "Accept",
    }
    return Settings(
        host=HOST,
        endpoint_to_host_action=action[found.endpoint_to_host],
        failsafe_inbound=_ports(found.failsafe_inbound),
        failsafe_outbound=_ports(found.failsafe_outbound),
        log_denied=seen,
        log_allowed=seen,
    )


def _links() -> FakeRtnl:
    made = FakeRtnl()
    for name, interface in host_interfaces(HOST).items():
        if name == "lo":
            link = made.link("lo")
        else:
            link = made.create_veth(name, VethPeer(name="far", namespace=0))
        made.assigned += [
            Address(interface=link.index, address=one, length=one.bits)
            for one in interface.addresses
        ]
    return made


def enforce(state: State, *, seen: bool) -> Ruleset:
    nft = WireNft()
    settings = settings_for(settings_of(state, HOST), seen=seen)
    dataplane = Dataplane(settings, nft, _links(), NoConnections())
    graph = Graph(HOST, dataplane.on_update)
    for key, value in state.items():
        graph.on_update(key, value)
    graph.flush()
    asyncio.run(dataplane.apply())
    assert not dataplane.refused
    return Ruleset.read(nft)


def is_possible(state: State, passage: Passage) -> bool:
    """Nothing with a loopback address comes in from outside, and nothing with an address that
    is not its own from a workload, whatever policy says."""
    packet, came_in = passage.packet, passage.came_in
    if came_in is None or came_in.name == "lo":
        return True
    loopback = host_interfaces(HOST)["lo"].addresses
    if packet.source in loopback or packet.destination in loopback:
        return False
    if not came_in.workload:
        return True
    return workload_with(state, packet.source) == workload_at(state, HOST, came_in)


def _translate(skb: Skb, packet: Packet) -> None:
    has_port = packet.destination_port is not None
    port = (packet.destination_port or 0).to_bytes(2, "big")
    skb.rewrite(destination=packet.destination.packed, port=port if has_port else b"")
    skb.status |= CtStatus.DNAT


def passes(rules: Ruleset, passage: Passage) -> tuple[bool | None, list[str]]:
    """Whether it gets there, and what was decided on the way.

    None: there is no such passage, as what is not tracked is not translated.
    """
    data = frame(passage.packet, 0, source_mac=bytes(6), destination_mac=bytes(6))
    came_in, goes_out = passage.came_in, passage.goes_out
    skb = Skb(data[ETHERNET_BYTES:], iif=came_in.name if came_in else "")
    first = Hook.PREROUTING if came_in else Hook.OUTPUT
    way_out = goes_out.name.encode().ljust(16, b"\0") if goes_out else bytes(16)
    if came_in is None:
        skb.oif = way_out
    steps = [(first, BEFORE_NAT), (first, FROM_NAT)]
    if came_in is not None:
        steps.append((Hook.FORWARD if goes_out else Hook.INPUT, range(-400, 400)))
    if goes_out is not None:
        steps.append((Hook.POSTROUTING, range(-400, 400)))
    for number, (hook, priorities) in enumerate(steps):
        if number == 1 and passage.translated is not None:
            if skb.state is CtState.UNTRACKED:
                return None, skb.walked
            _translate(skb, passage.translated)
            if came_in is None:
                # The rest of the hook is not told where the packet goes now.
                skb.oif = ELSEWHERE
        if number == 2:
            skb.oif = way_out
        if not rules.run(hook, skb, priorities):
            return False, skb.walked
    return True, skb.walked


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_rules_for_host_endpoints_mean_what_the_reference_says(chunk: int) -> None:
    first = 300_000 + chunk * SEEDS_PER_CHUNK
    passed = count = 0
    for seed in range(first, first + SEEDS_PER_CHUNK):
        state = host_world(seed)
        rules = enforce(state, seen=bool(seed % 2))
        for passage in passages(state, HOST, seed, PACKETS):
            if not is_possible(state, passage):
                continue
            decision = decide_passage(state, passage)
            found, walked = passes(rules, passage)
            if found is None:
                continue
            assert found == decision.allowed, (seed, passage, decision, walked)
            passed += found
            count += 1
    assert count > SEEDS_PER_CHUNK * PACKETS * 0.7
    assert 0.1 < passed / count < 0.9, "both happen often"
