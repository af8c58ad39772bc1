"""When a host endpoint's policy tightens, of the host's known connections exactly those go that it
would not let in any more."""

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from tests.netns.dataplane_host import ALLOW_ALL, Host, Workload
from tests.netns.outside import THIS_HOST, End, Machine, udp

from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.settings import ProtoPort, Settings
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    UDP,
    IPSetType,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
    TierPolicies,
)
from tortie.kernel.own_connections import Ends, own_connections
from tortie.lib.ip import Network, parse_address

pytestmark = pytest.mark.usefixtures("netns")

SSH, WEB, OTHER = 22, 8080, 8081
FAMILIES = (4, 6)
OPEN = PolicyList(profiles=(ALLOW_ALL,))


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host(
        Settings(
            host="h1",
            failsafe_inbound=(ProtoPort(UDP, SSH),),
            failsafe_outbound=(ProtoPort(UDP, SSH),),
        )
    )
    made.allow_all_profile()
    yield made
    made.close()


class Flows:
    """Connections by names of ours."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ids: dict[str, int] = {}

    def begin(self, name: str, client: End, server: End, to: Network, port: int) -> None:
        before = {flow.id for flow in self._host.conntrack.flows()}
        assert udp(client, server, to, port, patience=5), name
        (new,) = (flow for flow in self._host.conntrack.flows() if flow.id not in before)
        self._ids[name] = new.id

    def known(self) -> set[str]:
        there = {flow.id for flow in self._host.conntrack.flows()}
        return {name for name, one in self._ids.items() if one in there}


def port(number: int) -> Side:
    return Side(ports=(PortRange(number, number),))


def of(*policies: PolicyId) -> PolicyList:
    return PolicyList((TierPolicies("default", "Deny", policies),))


def without(host: Host, number: int) -> PolicyId:
    """A policy that denies the port, and allows all else."""
    rules = (Rule("Deny", protocol=UDP, destination=port(number)), Rule("Allow"))
    return host.policy("without", ingress=rules, egress=rules)


def give(host: Host, name: str = "hep", interface: str = "up0", **lists: PolicyList) -> None:
    fields = {"ingress": OPEN, "egress": OPEN, **lists}
    host.update(Kind.HOST_ENDPOINT, name, HostEndpoint(interface, **fields))  # type: ignore[arg-type]
    settle(host)


def settle(host: Host) -> None:
    """Searches take at most a tenth of the time: until the last one is over."""
    host.apply()
    while (pause_seconds := host.dataplane.retry_seconds) is not None:
        time.sleep(pause_seconds)
        host.apply()


def begin_all(host: Host, two: tuple[Machine, Machine]) -> Flows:
    """Into this host, out of it, and through it; by both links, to three ports."""
    flows = Flows(host)
    for family in FAMILIES:
        for number in (SSH, WEB, OTHER):
            for side, machine in zip("ab", two, strict=True):
                near, far = machine.near[family], machine.address(family)
                what = f"{family} {number} {side}"
                flows.begin(f"in {what}", machine, THIS_HOST, near, number)
                flows.begin(f"out {what}", THIS_HOST, machine, far, number)
            a, b = two
            flows.begin(f"through {family} {number} a", a, b, b.address(family), number)
    return flows


def gone(flows: Flows, before: set[str]) -> set[str]:
    return before - flows.known()


def both(text: str) -> set[str]:
    return {text.format(family) for family in FAMILIES}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("ingress", both("in {} 8080 a")),
        ("egress", both("out {} 8080 a")),
        ("forward_ingress", both("through {} 8080 a")),
        ("forward_egress", set()),  # what passes by goes the other way
    ],
)
def test_exactly_what_is_denied_by_now_goes(
    host: Host, two: tuple[Machine, Machine], place: str, expected: set[str]
) -> None:
    give(host)
    give(host, "other", "up1")
    flows = begin_all(host, two)
    before = flows.known()
    lists = {place: of(without(host, WEB))}
    give(host, "hep", "up0", **lists)
    assert gone(flows, before) == expected


def test_where_it_goes_out_counts_too(host: Host, two: tuple[Machine, Machine]) -> None:
    give(host)
    flows = begin_all(host, two)
    before = flows.known()
    give(host, "other", "up1", forward_egress=of(without(host, WEB)))
    assert gone(flows, before) == both("through {} 8080 a")


def test_a_new_endpoint_leaves_failsafe_ports_and_what_passes_by(
    host: Host, two: tuple[Machine, Machine]
) -> None:
    settle(host)
    flows = begin_all(host, two)
    before = flows.known()
    give(host, ingress=PolicyList(), egress=PolicyList())
    stay = {one for one in before if one.endswith("b") or " 22 " in one or "through" in one}
    assert flows.known() == stay


def test_that_of_all_interfaces_is_for_those_without_one(
    host: Host, two: tuple[Machine, Machine]
) -> None:
    give(host)
    flows = begin_all(host, two)
    before = flows.known()
    give(host, "all", "*", ingress=of(without(host, WEB)), egress=OPEN)
    assert gone(flows, before) == both("in {} 8080 b")
    host.update(Kind.HOST_ENDPOINT, "hep", None)
    settle(host)
    assert gone(flows, before) == both("in {} 8080 a") | both("in {} 8080 b")


def test_edits_of_policies_and_of_sets(host: Host, two: tuple[Machine, Machine]) -> None:
    a, _ = two
    members = [one.address(family) for one in two for family in FAMILIES]
    host.update(Kind.IP_SET, "s:friends", IPSetType.NET)
    for one in members:
        host.update(Kind.IP_SET_MEMBER, ("s:friends", one), True)
    friends = Rule("Allow", source=Side(sets=("s:friends",)))
    policy = host.policy("friends", ingress=(friends,))
    give(host, "all", "*", ingress=of(policy))
    flows = begin_all(host, two)
    before = flows.known()
    host.update(Kind.IP_SET_MEMBER, ("s:friends", a.address(4)), None)
    settle(host)
    lost = {"in 4 8080 a", "in 4 8081 a"}
    assert gone(flows, before) == lost
    host.policy("friends", ingress=(Rule("Deny", destination=port(OTHER), protocol=UDP), friends))
    settle(host)
    assert gone(flows, before) == lost | {"in 6 8081 a"} | both("in {} 8081 b")


def test_before_translation_and_behind_it(host: Host, two: tuple[Machine, Machine]) -> None:
    """Pre-DNAT lists know the port that was asked for, the others the one behind."""
    subprocess.run(
        [
            "nft",
            "add table ip redirecting; add chain ip redirecting in { type nat hook prerouting"
            f" priority dstnat; }}; add rule ip redirecting in udp dport 80 redirect to :{WEB}",
        ],
        check=True,
    )
    a, _ = two
    give(host)
    flows = Flows(host)
    near = a.near[4]
    # Redirected: it is sent to 80, and served at WEB.
    with THIS_HOST.socket(4, socket.SOCK_DGRAM) as server, a.socket(4, socket.SOCK_DGRAM) as client:
        server.bind((near.address_text, WEB))
        server.settimeout(2)
        client.sendto(b"ask", (near.address_text, 80))
        assert server.recv(16) == b"ask"
        (flow,) = host.conntrack.flows()
        flows._ids["redirected"] = flow.id
    flows.begin("straight", a, THIS_HOST, near, WEB)
    early = PolicyList((TierPolicies("default", "Pass", (without(host, WEB),)),))
    give(host, pre_dnat=early)
    assert flows.known() == {"redirected"}
    give(host, ingress=of(without(host, WEB)))
    assert flows.known() == set()


def test_workloads_beside_it(host: Host, two: tuple[Machine, Machine], workload: Workload) -> None:
    """Normal lists never, forward lists of all interfaces always; this host always reaches them."""
    a, _ = two
    give(host, "all", "*")
    flows = Flows(host)
    flows.begin("in", a, workload, workload.ipv4, WEB)
    flows.begin("out", workload, a, a.address(4), WEB)
    flows.begin("from host", THIS_HOST, workload, workload.ipv4, WEB)
    give(host, "all", "*", ingress=of(without(host, WEB)), egress=of(without(host, WEB)))
    assert flows.known() == {"in", "out", "from host"}
    give(host, "all", "*", forward_egress=of(without(host, WEB)))
    assert flows.known() == {"from host"}


def test_loopback_is_nobodys_but_its_own(host: Host) -> None:
    own = parse_address("127.0.0.1")
    give(host, "all", "*")
    flows = Flows(host)
    flows.begin("loopback", THIS_HOST, THIS_HOST, own, WEB)
    give(host, "all", "*", ingress=PolicyList(), egress=PolicyList())
    assert flows.known() == {"loopback"}
    give(host, "lo", "lo", ingress=of(without(host, WEB)))
    assert flows.known() == set()


def test_what_changed_while_nobody_was_there(host: Host, two: tuple[Machine, Machine]) -> None:
    """A fresh agent judges all that it finds."""
    give(host)
    flows = begin_all(host, two)
    before = flows.known()
    host.restart()
    host.allow_all_profile()
    give(host, ingress=of(without(host, WEB)))
    assert gone(flows, before) == both("in {} 8080 a")


def test_what_this_process_has_connected_to_is_spared(
    host: Host, two: tuple[Machine, Machine]
) -> None:
    a, _ = two
    to = a.address(4)
    settle(host)
    client = THIS_HOST.socket(4, socket.SOCK_STREAM)
    with a.socket(4, socket.SOCK_STREAM) as server, client:
        server.bind((to.address_text, WEB))
        server.listen()
        client.connect(server.getsockname())
        (flow,) = host.conntrack.flows_involving([to])
        for spared in (own_connections, frozenset[Ends]):
            host.dataplane = Dataplane(
                host.settings, host.nft, host.rtnl, host.conntrack, spared=spared
            )
            host.allow_all_profile()
            give(host, egress=PolicyList())
            left = {one.id for one in host.conntrack.flows_involving([to])}
            assert left == ({flow.id} if spared is own_connections else set())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mapped", [False, True])
def test_own_connections_are_those_that_were_made(family: int, mapped: bool) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    text = "127.0.0.1" if family == 4 else "::1"
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    if mapped and family == 4:
        kind, text = socket.AF_INET6, "::ffff:127.0.0.1"
    with socket.socket(kind) as server, socket.socket(kind) as client, socket.socket(kind) as idle:
        server.bind((text, 0))
        server.listen()
        client.connect(server.getsockname())
        own = parse_address("127.0.0.1" if family == 4 else "::1")
        ends = Ends(own, client.getsockname()[1], own, server.getsockname()[1])
        assert ends in own_connections()
        count = len(own_connections())
        idle.connect(server.getsockname())
        assert len(own_connections()) == count + 1
    assert ends not in own_connections()
