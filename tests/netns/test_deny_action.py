"""What policy denies is rejected where that is set: senders are told, and by whom it may be."""

import errno
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.netns.dataplane_host import (
    ALLOW_ALL,
    BRIEF,
    Host,
    Workload,
    hears,
    patience_for,
    pings,
    settle,
    tier,
    workloads,
)
from tests.netns.outside import HOST, OTHER, THIS_HOST, End, Machine, machines, tcp

from tortie.dataplane.settings import ProtoPort, Settings
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    TCP,
    UDP,
    Policy,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
)
from tortie.lib.ip import Network, parse_address

pytestmark = pytest.mark.usefixtures("netns")

both_families = pytest.mark.parametrize("family", [4, 6])
WEB, BLOCKED, SSH = 8080, 23, 22
PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
"""What ICMP's code 13 and ICMPv6's code 1 come to in Linux."""
NO_ICMP_LIMITS = ("net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
PATIENCE = 5
OPEN = PolicyList(profiles=(ALLOW_ALL,))
NOBODY = PolicyList((tier(),))
"""A tier without policies: its end denies."""
CLOSED = PolicyList()
"""No tier, no profile: the end of the list denies."""


@pytest.fixture(params=(True, False), ids=("logged", "not-logged"))
def host(request: pytest.FixtureRequest, netns: None) -> Iterator[Host]:
    made = Host(
        Settings(
            host="h1",
            deny_action="Reject",
            log_denied=request.param,
            failsafe_inbound=(ProtoPort(TCP, SSH),),
        )
    )
    made.allow_all_profile()
    subprocess.run(["sysctl", "-qw", *NO_ICMP_LIMITS], check=True)
    yield made
    made.close()


@pytest.fixture
def two(host: Host) -> Iterator[tuple[Workload, Workload]]:
    with workloads(host, 2) as made:
        host.endpoint(made[0])
        host.endpoint(made[1])
        yield made[0], made[1]


def port(protocol: int, number: int) -> Rule:
    ports = Side(ports=(PortRange(number, number),))
    return Rule("Deny", protocol=protocol, destination=ports)


def tcp_error(
    client: End, to: Network, number: int = BLOCKED, *, patience: float = PATIENCE
) -> int | None:
    """Of an attempt to connect: 0 for none, None for silence."""
    with closing(client.socket(to.family, socket.SOCK_STREAM)) as here:
        here.settimeout(patience)
        try:
            here.connect((to.address_text, number))
        except TimeoutError:
            return None
        except OSError as error:
            return error.errno
        return 0


def udp_error(
    client: End, to: Network, number: int = BLOCKED, *, patience: float = PATIENCE
) -> int | None:
    """What the sender of a datagram gets to know; None for nothing."""
    with closing(client.socket(to.family, socket.SOCK_DGRAM)) as here:
        here.settimeout(patience)
        here.connect((to.address_text, number))
        try:
            here.send(b"ask")
            here.recv(16)
        except TimeoutError:
            return None
        except OSError as error:
            return error.errno
        return 0


def is_told(client: End, to: Network, *, patience: float = PATIENCE) -> bool:
    """By both protocols that it is forbidden."""
    found = tuple(ask(client, to, patience=patience) for ask in (tcp_error, udp_error))
    return found == (errno.ECONNREFUSED, PROHIBITED[to.family])


def is_silent(client: End, to: Network) -> bool:
    return all(ask(client, to, patience=BRIEF) is None for ask in (tcp_error, udp_error))


@both_families
def test_of_workloads_by_rules_and_ends(
    two: tuple[Workload, Workload], outside: Machine, host: Host, family: int
) -> None:
    """The uplink gives the host an address to answer from."""
    client, server = two
    deny = host.policy(
        "no-telnet",
        ingress=(port(TCP, BLOCKED), port(UDP, BLOCKED), Rule("Allow")),
        egress=(port(TCP, BLOCKED), port(UDP, BLOCKED), Rule("Allow")),
    )
    by_rule = PolicyList((tier(deny),))
    to = server.address(family)
    for closed in (by_rule, NOBODY, CLOSED):
        host.endpoint(server, ingress=closed)
        host.apply()
        assert is_told(client, to), f"who sends: {closed}"
        passes = closed is by_rule
        assert tcp(client, server, to, WEB, patience=patience_for(passes)) == passes
        host.endpoint(server)
        host.endpoint(client, egress=closed)
        host.apply()
        assert is_told(client, to), f"who may not send: {closed}"
        passes = closed is by_rule
        assert tcp(client, server, to, WEB, patience=patience_for(passes)) == passes
        host.endpoint(client)
        host.apply()
        assert tcp_error(client, to) == errno.ECONNREFUSED, "nobody listens there"
        assert udp_error(client, to) == errno.ECONNREFUSED
        assert hears(client, server, WEB, family)


@both_families
def test_between_a_workload_and_another_machine(
    two: tuple[Workload, Workload], outside: Machine, host: Host, family: int
) -> None:
    workload, _ = two
    host.endpoint(workload, egress=NOBODY, ingress=NOBODY)
    host.apply()
    assert is_told(workload, OTHER[family])
    assert is_told(outside, workload.address(family))


@both_families
def test_what_a_workload_sends_to_its_host(
    two: tuple[Workload, Workload], outside: Machine, host: Host, family: int
) -> None:
    """Policy answers; the endpoint-to-host action, which is none, drops."""
    workload, _ = two
    host.apply()
    assert is_silent(workload, HOST[family])
    host.endpoint(workload, egress=NOBODY)
    host.apply()
    assert is_told(workload, HOST[family])


@both_families
def test_of_a_host_both_ways(outside: Machine, host: Host, family: int) -> None:
    """Its own egress policy, which denies everything, does not keep the resets in."""
    endpoint = HostEndpoint("up0", ingress=NOBODY, egress=NOBODY)
    host.update(Kind.HOST_ENDPOINT, "up0", endpoint)
    host.apply()
    assert is_told(outside, HOST[family])
    assert tcp_error(THIS_HOST, OTHER[family]) == errno.ECONNREFUSED
    assert tcp_error(outside, HOST[family], SSH) == errno.ECONNREFUSED, "failsafe: nobody listens"
    # Nothing else gets out that is related to a connection.
    assert not pings(OTHER[family], patience=BRIEF)


@both_families
def test_profiles_of_a_host_may_deny(outside: Machine, host: Host, family: int) -> None:
    """Asked behind routing, too, where nothing can be rejected; the rest of it goes on."""
    name = PolicyId("Profile", "host")
    allow = Rule("Allow")
    host.update(Kind.POLICY, name, Policy((allow,), (port(TCP, BLOCKED), allow)))
    lists = PolicyList(profiles=(name,))
    host.update(Kind.HOST_ENDPOINT, "up0", HostEndpoint("up0", ingress=lists, egress=lists))
    host.apply()
    assert host.dataplane.refused == {}
    assert tcp_error(THIS_HOST, OTHER[family]) == errno.ECONNREFUSED
    assert pings(OTHER[family])


@both_families
def test_what_passes_a_host(host: Host, family: int) -> None:
    with machines(host, "up0", "up1") as (one, other):
        host.apply()
        assert tcp_error(one, other.address(family)) == errno.ECONNREFUSED
        for endpoint in (
            HostEndpoint("up0", ingress=OPEN, egress=OPEN, forward_ingress=NOBODY),
            HostEndpoint("up1", ingress=OPEN, egress=OPEN, forward_egress=NOBODY),
        ):
            host.update(Kind.HOST_ENDPOINT, "up", endpoint)
            host.apply()
            assert is_told(one, other.address(family)), endpoint


@both_families
def test_before_routing_nobody_is_told(outside: Machine, host: Host, family: int) -> None:
    deny = host.policy("early", ingress=(Rule("Deny"),))
    early = PolicyList((tier(deny, default="Pass"),))
    for endpoint in (
        HostEndpoint("up0", ingress=OPEN, egress=OPEN, untracked_ingress=early),
        HostEndpoint("up0", ingress=OPEN, egress=OPEN, pre_dnat=early),
    ):
        host.update(Kind.HOST_ENDPOINT, "up0", endpoint)
        host.apply()
        assert is_silent(outside, HOST[family]), endpoint
    host.update(Kind.HOST_ENDPOINT, "up0", HostEndpoint("up0", ingress=OPEN, egress=OPEN))
    host.apply()
    assert tcp_error(outside, HOST[family]) == errno.ECONNREFUSED, "nobody listens there"


@both_families
def test_the_hosts_own_behind_destination_nat(outside: Machine, host: Host, family: int) -> None:
    """Policy is asked at postrouting, where the kernel rejects nothing: denied is denied."""
    service = {4: "198.51.100.1", 6: "fd00:99::1"}[family]
    kind = {4: "ip", 6: "ip6"}[family]
    target = {4: OTHER[4].address_text, 6: f"[{OTHER[6].address_text}]"}[family]
    subprocess.run(
        ["nft", "-f", "-"],
        input=f"""table {kind} services {{ chain output {{
            type nat hook output priority -100;
            {kind} daddr {service} tcp dport {{ {WEB}, {BLOCKED} }} dnat to {target};
        }}
        }}""",
        text=True,
        check=True,
    )
    route = ["ip", f"-{family}", "route", "add", f"{service}", "dev", "lo"]
    subprocess.run(route, check=True)
    policy = host.policy("web", egress=(port(TCP, BLOCKED), Rule("Allow")))
    endpoint = HostEndpoint("up0", ingress=OPEN, egress=PolicyList((tier(policy),)))
    host.update(Kind.HOST_ENDPOINT, "up0", endpoint)
    host.apply()
    assert host.dataplane.refused == {}
    to = parse_address(service)
    assert tcp_error(THIS_HOST, to, WEB) == errno.ECONNREFUSED, "by the other machine"
    assert tcp_error(THIS_HOST, to, BLOCKED, patience=BRIEF) is None, "silence"
    assert tcp_error(THIS_HOST, OTHER[family], BLOCKED) == errno.ECONNREFUSED


@both_families
def test_what_is_no_matter_of_policy_is_dropped(
    two: tuple[Workload, Workload], outside: Machine, host: Host, family: int
) -> None:
    stranger, server = two
    to = server.address(family)
    host.remove(stranger)
    host.apply()
    assert is_silent(stranger, to), "an interface without an endpoint"
    assert not is_told(outside, stranger.address(family), patience=BRIEF), "there is no route"
    host.endpoint(stranger)
    host.endpoint(server, ingress=NOBODY)
    host.apply()
    assert is_told(stranger, to)
    forged = {4: "10.65.0.99/32", 6: "fd00:65::99/128"}[family]
    nodad = "" if family == 4 else "nodad"
    stranger.run(f"ip addr add {forged} dev eth0 {nodad}")
    with closing(stranger.socket(family, socket.SOCK_STREAM)) as here:
        here.settimeout(BRIEF)
        here.bind((forged.split("/")[0], 0))
        with pytest.raises(TimeoutError):
            here.connect((to.address_text, BLOCKED))


def test_a_connection_that_is_denied_by_now_ends_at_once(
    two: tuple[Workload, Workload], host: Host
) -> None:
    client, server = two
    host.apply()
    with (
        closing(server.socket(4, socket.SOCK_STREAM)) as listening,
        closing(client.socket(4, socket.SOCK_STREAM)) as here,
    ):
        listening.bind((server.ipv4.address_text, WEB))
        listening.listen()
        here.connect((server.ipv4.address_text, WEB))
        there, _ = listening.accept()
        with there:
            here.send(b"a")
            assert there.recv(1) == b"a"
            host.endpoint(server, ingress=NOBODY)
            host.apply()
            settle(host)
            here.settimeout(PATIENCE)
            here.send(b"b")
            with pytest.raises(ConnectionResetError):
                here.recv(1)


def test_by_default_nobody_is_told_and_nothing_is_there_for_it(netns: None) -> None:
    plain = Host(Settings(host="h1", log_denied=True))
    plain.allow_all_profile()
    with closing(plain), workloads(plain, 2) as (client, server), machines(plain, "up0"):
        plain.endpoint(client)
        plain.endpoint(server, ingress=NOBODY)
        plain.update(Kind.HOST_ENDPOINT, "up0", HostEndpoint("up0", ingress=NOBODY, egress=NOBODY))
        plain.apply()
        assert is_silent(client, server.ipv4)
        assert tcp_error(THIS_HOST, OTHER[4], patience=BRIEF) is None
        listed = "\n".join(plain.ruleset())
    for word in ("reject", "translated", "tcp flags"):
        assert word not in listed


def test_a_restart_writes_nothing(
    two: tuple[Workload, Workload], outside: Machine, host: Host
) -> None:
    host.update(Kind.HOST_ENDPOINT, "up0", HostEndpoint("up0", ingress=NOBODY, egress=NOBODY))
    host.endpoint(two[0], ingress=NOBODY)
    host.apply()
    before = host.ruleset()
    assert any("reject with tcp reset" in one for one in before)
    host.restart()
    host.allow_all_profile()
    host.endpoint(two[0], ingress=NOBODY)
    host.endpoint(two[1])
    host.update(Kind.HOST_ENDPOINT, "up0", HostEndpoint("up0", ingress=NOBODY, egress=NOBODY))
    generation = host.generation()
    host.apply()
    assert host.generation() == generation
    assert host.ruleset() == before
