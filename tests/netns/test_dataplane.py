"""The dataplane against the real kernel: packets between namespaces decide."""

import socket
import subprocess
from collections.abc import Iterator

import pytest
from tests.netns.dataplane_host import (
    ALLOW_ALL,
    BRIEF,
    PATIENCE,
    Host,
    Talk,
    Workload,
    hears,
    hears_tcp,
    patience_for,
    pings,
    settle,
    tier,
    workloads,
)

from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Pool
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    AddressPort,
    ICMPMatch,
    IPSetType,
    PolicyList,
    PortRange,
    Rule,
    Side,
)
from tortie.kernel.nft.expressions import Cmp, Counter
from tortie.lib.ip import parse_network

pytestmark = pytest.mark.usefixtures("netns")

ALLOW_UDP = Rule("Allow", protocol=UDP)


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host()
    made.allow_all_profile()
    yield made
    made.close()


@pytest.fixture
def pair(host: Host) -> Iterator[tuple[Workload, Workload]]:
    with workloads(host, 2) as made:
        yield made[0], made[1]


def udp_to(*ports: int) -> Side:
    return Side(ports=tuple(PortRange(port, port) for port in ports))


def only(*rules: Rule, host: Host) -> PolicyList:
    return PolicyList((tier(host.policy("p", ingress=rules)),))


# What a rule matches.


@pytest.mark.parametrize("family", [4, 6])
def test_an_allowed_port_passes_and_others_do_not(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    web = Rule("Allow", protocol=UDP, destination=udp_to(80, 443))
    host.endpoint(a)
    host.endpoint(b, ingress=only(web, host=host))
    host.apply()
    assert hears(a, b, 80, family)
    assert hears(a, b, 443, family)
    assert not hears(a, b, 81, family, patience=BRIEF)


@pytest.mark.parametrize("family", [4, 6])
def test_networks_and_their_negation(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    near = Side(networks=(parse_network("10.65.0.0/24"), parse_network("fd00:65::/64")))
    host.endpoint(a)
    host.endpoint(b, ingress=only(Rule("Allow", protocol=UDP, source=near), host=host))
    host.apply()
    assert hears(a, b, 80, family)
    far = Side(not_networks=near.networks)
    only(Rule("Allow", protocol=UDP, source=far), host=host)
    host.apply()
    assert not hears(a, b, 80, family, patience=BRIEF)
    # Networks of the other family alone match nothing in this one.
    other = Side(networks=tuple(n for n in near.networks if n.family != family))
    only(Rule("Allow", protocol=UDP, source=other), host=host)
    host.apply()
    assert not hears(a, b, 80, family, patience=BRIEF)


@pytest.mark.parametrize("family", [4, 6])
def test_a_set_follows_its_members(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    host.update(Kind.IP_SET, "s:friends", IPSetType.NET)
    friends = Rule("Allow", protocol=UDP, source=Side(sets=("s:friends",)))
    host.endpoint(a)
    host.endpoint(b, ingress=only(friends, host=host))
    host.apply()
    assert not hears(a, b, 80, family, patience=BRIEF), "an empty set matches nothing"
    wide = parse_network("10.64.0.0/10" if family == 4 else "fd00::/16")
    for member, heard in ((a.address(family), True), (wide, True)):
        host.update(Kind.IP_SET_MEMBER, ("s:friends", member), True)
        host.apply()
        assert hears(a, b, 80, family, patience=patience_for(heard)) is heard
    host.update(Kind.IP_SET_MEMBER, ("s:friends", a.address(family)), None)
    host.apply()
    assert hears(a, b, 80, family), "the wide member still has it"
    host.update(Kind.IP_SET_MEMBER, ("s:friends", wide), None)
    host.apply()
    assert not hears(a, b, 80, family, patience=BRIEF)


def test_a_negated_set(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair
    host.update(Kind.IP_SET, "s:enemies", IPSetType.NET)
    host.endpoint(a)
    not_enemies = Rule("Allow", protocol=UDP, source=Side(not_sets=("s:enemies",)))
    host.endpoint(b, ingress=only(not_enemies, host=host))
    host.apply()
    assert hears(a, b, 80)
    host.update(Kind.IP_SET_MEMBER, ("s:enemies", a.ipv4), True)
    host.apply()
    assert not hears(a, b, 80, patience=BRIEF)
    assert hears(a, b, 80, 6)


@pytest.mark.parametrize("family", [4, 6])
def test_named_ports_beside_numbers(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    host.update(Kind.IP_SET, "n:web", IPSetType.ADDRESS_PORT)
    host.update(Kind.IP_SET_MEMBER, ("n:web", AddressPort(b.address(family), UDP, 8080)), True)
    host.update(Kind.IP_SET_MEMBER, ("n:web", AddressPort(b.address(family), TCP, 9090)), True)
    side = Side(ports=(PortRange(53, 54),), named_ports=("n:web",))
    host.endpoint(a)
    host.endpoint(b, ingress=only(Rule("Allow", protocol=UDP, destination=side), host=host))
    host.apply()
    assert hears(a, b, 8080, family)
    assert hears(a, b, 54, family)
    assert not hears(a, b, 9090, family, patience=BRIEF), "the name means another protocol there"
    assert not hears(a, b, 55, family, patience=BRIEF)
    side = Side(not_ports=(PortRange(53, 54),), not_named_ports=("n:web",))
    only(Rule("Allow", protocol=UDP, destination=side), host=host)
    host.apply()
    assert not hears(a, b, 8080, family, patience=BRIEF)
    assert not hears(a, b, 54, family, patience=BRIEF)
    assert hears(a, b, 9090, family)


def test_protocols(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b, ingress=only(Rule("Allow", protocol=TCP), host=host))
    host.apply()
    assert hears_tcp(a, b, 80)
    assert not hears(a, b, 80, patience=BRIEF)
    only(Rule("Allow", not_protocol=TCP), host=host)
    host.apply()
    assert not hears_tcp(a, b, 81, patience=BRIEF)
    assert hears(a, b, 80)


@pytest.mark.parametrize(
    ("family", "protocol", "echo"), [(4, ICMP, ICMPMatch(8, 0)), (6, ICMPV6, ICMPMatch(128))]
)
def test_icmp_types(
    host: Host, pair: tuple[Workload, Workload], family: int, protocol: int, echo: ICMPMatch
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b, ingress=only(Rule("Allow", protocol=protocol, icmp=echo), host=host))
    host.apply()
    assert a.pings(b.address(family))
    only(Rule("Allow", protocol=protocol, not_icmp=echo), host=host)
    host.apply()
    assert not a.pings(b.address(family), patience=BRIEF)


def test_the_first_rule_that_matches_decides(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair
    host.endpoint(a)
    deny = Rule("Deny", protocol=UDP, destination=udp_to(80))
    host.endpoint(b, ingress=only(Rule("Log"), deny, ALLOW_UDP, host=host))
    host.apply()
    assert not hears(a, b, 80, patience=BRIEF)
    assert hears(a, b, 81)


# Lists, tiers, profiles.


def test_an_endpoint_without_policy_or_profile_is_closed(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b, ingress=PolicyList())
    host.apply()
    assert not hears(a, b, 80, patience=BRIEF)
    assert hears(b, a, 80)


def test_egress_is_judged_before_ingress(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair
    out = host.policy("out", egress=(Rule("Allow", protocol=UDP, destination=udp_to(80)),))
    host.endpoint(a, egress=PolicyList((tier(out),)))
    host.endpoint(b)
    host.apply()
    assert hears(a, b, 80)
    assert not hears(a, b, 81, patience=BRIEF)
    assert hears(b, a, 81)


def test_pass_goes_to_the_next_tier_and_skips_the_rest_of_its_own(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    first = host.policy(
        "first",
        tier="security",
        ingress=(
            Rule("Pass", protocol=UDP, destination=udp_to(80, 81)),
            Rule("Allow", protocol=UDP, destination=udp_to(90)),
        ),
    )
    second = host.policy("second", tier="security", ingress=(Rule("Deny", protocol=UDP),))
    app = host.policy("app", ingress=(Rule("Allow", protocol=UDP, destination=udp_to(80, 91)),))
    host.endpoint(a)
    host.endpoint(b, ingress=PolicyList((tier(first, second, name="security"), tier(app))))
    host.apply()
    assert hears(a, b, 90), "allowed by the first tier"
    assert hears(a, b, 80), "passed, and allowed by the next tier"
    assert not hears(a, b, 81, patience=BRIEF), "passed, and nobody else allows it"
    assert not hears(a, b, 91, patience=BRIEF), "denied by the first tier's second policy"


def test_pass_in_the_last_tier_goes_to_the_profiles(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    passing = host.policy("p", ingress=(Rule("Pass", protocol=UDP, destination=udp_to(80)),))
    host.endpoint(a)
    host.endpoint(b, ingress=PolicyList((tier(passing),), profiles=(ALLOW_ALL,)))
    host.apply()
    assert hears(a, b, 80)
    assert not hears(a, b, 81, patience=BRIEF), "the tier's end denies what did not pass"


@pytest.mark.parametrize(("default", "heard"), [("Deny", False), ("Pass", True)])
def test_the_default_action_of_a_tier(
    host: Host, pair: tuple[Workload, Workload], default: str, heard: bool
) -> None:
    a, b = pair
    silent = host.policy("silent", ingress=(Rule("Deny", protocol=TCP),))
    app = host.policy("app", ingress=(ALLOW_UDP,))
    first = tier(silent, name="security", default=default)
    host.endpoint(a)
    host.endpoint(b, ingress=PolicyList((first, tier(app))))
    host.apply()
    assert hears(a, b, 80, patience=patience_for(heard)) is heard


def test_a_profile_that_passes_leaves_it_to_the_next_profile(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    passing = host.policy("profile", ingress=(Rule("Pass"),))
    host.endpoint(a)
    host.endpoint(b, ingress=PolicyList(profiles=(passing, ALLOW_ALL)))
    host.apply()
    assert hears(a, b, 80)


def test_an_unknown_policy_is_closed_until_it_is_known(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    late = host.policy("late", ingress=(ALLOW_UDP,))
    host.update(Kind.POLICY, late, None)
    host.endpoint(a)
    host.endpoint(b, ingress=PolicyList(profiles=(late, ALLOW_ALL)))
    host.apply()
    assert not hears(a, b, 80, patience=BRIEF)
    host.policy("late", ingress=(ALLOW_UDP,))
    host.apply()
    assert hears(a, b, 80)


# Hostile workloads.


@pytest.mark.parametrize("family", [4, 6])
def test_a_spoofed_source_is_dropped(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    host.apply()
    forged = "10.65.0.77" if family == 4 else "fd00:65::77"
    a.run(f"ip addr add {forged}/{32 if family == 4 else 128} dev eth0 {'nodad' * (family == 6)}")
    assert hears(a, b, 80, family)
    assert not hears(a, b, 80, family, source=forged, patience=BRIEF)


def test_an_interface_that_is_no_endpoint_is_closed(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    host.apply()
    assert hears(a, b, 80)
    host.update(Kind.ENDPOINT, a.id, None)  # its routes stay: only the rules decide here
    host.apply()
    assert not hears(a, b, 80, patience=BRIEF)
    assert not hears(b, a, 80, patience=BRIEF)


def test_a_workload_does_not_reach_its_host(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, _ = pair
    subprocess.run(["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    host.endpoint(a)
    host.apply()
    assert not a.pings("192.0.2.1", patience=BRIEF)
    # The host reaches its workloads, whatever their policy says, and is answered.
    host.endpoint(a, ingress=PolicyList())
    host.apply()
    assert pings(a.ipv4, source="192.0.2.1")


@pytest.mark.parametrize(("action", "reached"), [("Accept", True), ("Return", True)])
def test_the_endpoint_to_host_action_comes_after_egress_policy(
    netns: None, action: str, reached: bool
) -> None:
    assert action in ("Accept", "Return")
    host = Host(Settings(host="h1", endpoint_to_host_action=action))  # type: ignore[arg-type]
    host.allow_all_profile()
    subprocess.run(["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    with workloads(host, 1) as (a,):
        host.endpoint(a)
        host.apply()
        assert a.pings("192.0.2.1", patience=patience_for(reached)) is reached
        host.endpoint(a, egress=PolicyList())
        host.apply()
        assert not a.pings("192.0.2.1", patience=BRIEF)
    host.close()


def test_loopback_addresses_are_not_reachable_from_a_workload(
    netns: None,
) -> None:
    """Not even where others have set route_localnet and the action is Accept."""
    host = Host(Settings(host="h1", endpoint_to_host_action="Accept"))
    host.allow_all_profile()
    with workloads(host, 1) as (a,):
        host.endpoint(a)
        host.apply()
        subprocess.run(["sysctl", "-qw", f"net.ipv4.conf.{a.interface}.route_localnet=1"])
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 5353))
        server.settimeout(BRIEF)
        a.run("ip route add 127.0.0.1 via 169.254.1.1 table 7; ip rule add to 127.0.0.1 table 7")
        a.run("ip rule del pref 0; ip rule add pref 100 table local; sysctl -qw "
              "net.ipv4.conf.eth0.route_localnet=1")  # fmt: skip
        a.run("ip rule add pref 50 to 127.0.0.1 table 7")
        with a.socket(4, socket.SOCK_DGRAM) as client:
            client.bind((a.ipv4.address_text, 0))
            client.sendto(b"x", ("127.0.0.1", 5353))
        with pytest.raises(TimeoutError):
            server.recv(1)
        counted = subprocess.run(
            ["nft", "list", "chain", "inet", "tortie", "workload-source"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "ip daddr 127.0.0.0/8 counter packets 1" in counted
        server.close()
    host.close()


def test_arp_is_believed_only_of_its_own_address_and_mac(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    host.apply()

    def answered(sender: str, mac: str, patience: float = 2 * BRIEF) -> bool:
        return a.arp_is_answered(sender=sender, mac=mac, target="10.65.0.2", patience=patience)

    assert answered("10.65.0.1", a.mac, PATIENCE)
    assert not answered("10.65.0.9", a.mac)
    assert not answered("10.65.0.1", "02:00:00:00:00:99")


def test_encapsulated_packets_are_dropped(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    host.apply()
    assert hears(a, b, 4790)
    assert not hears(a, b, 4789, patience=BRIEF)


def test_without_ipv6_nothing_of_it_passes(netns: None) -> None:
    host = Host(Settings(host="h1", ipv6=False))
    host.allow_all_profile()
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"], check=True)
    with workloads(host, 2) as (a, b):
        host.endpoint(a)
        host.endpoint(b)
        host.apply()
        for one in (a, b):
            route = ["ip", "-6", "route", "add", one.ipv6.address_text, "dev", one.interface]
            subprocess.run(route, check=True)
        assert hears(a, b, 80, 4)
        assert not hears(a, b, 80, 6, patience=BRIEF)
    host.close()


def test_ipv6_neighbours_find_each_other_and_nothing_else_comes_in(netns: None) -> None:
    """Nobody has been told a MAC: neighbour discovery has to get through the rules."""
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"], check=True)
    host = Host()
    host.allow_all_profile()
    gateway = "fe80::ecee:eeff:feee:eeee"  # what the kernel makes of the host's MAC
    with workloads(host, 2) as (a, b):
        for one in (a, b):
            one.mac = ""
            one.run(
                f"""ip -6 route del default; ip -6 neigh flush dev eth0
                ip -6 route add default via {gateway} dev eth0"""
            )
            host.endpoint(one)
        host.apply()
        assert hears(a, b, 80, 6, patience=2.0)
        assert not a.pings(f"{gateway}%eth0", patience=BRIEF), (
            "the host's own address is no service"
        )
    host.close()


@pytest.mark.parametrize("kind", [134, 137])
def test_a_workload_is_no_router(host: Host, pair: tuple[Workload, Workload], kind: int) -> None:
    a, _ = pair
    host.endpoint(a)
    host.apply()
    a.send_icmpv6(kind, "ff02::1")
    dropped = [
        rule
        for rule in host.rules().values()
        if rule.chain == "workload-source" and bytes((kind,)) in map(_compared, rule.expressions)
    ]
    (counter,) = (one for one in dropped[0].expressions if isinstance(one, Counter))
    assert counter.packets == 1


def _compared(expression: object) -> bytes:
    return expression.value if isinstance(expression, Cmp) else b""


def test_the_gateway_answers_arp_where_the_host_has_a_way_out(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    subprocess.run(["ip", "route", "add", "default", "dev", b.interface], check=True)
    host.endpoint(a)
    host.apply()
    assert a.arp_is_answered(sender="10.65.0.1", mac=a.mac, target="169.254.1.1")


# Changes.


def test_an_established_connection_survives_other_changes(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b, ingress=only(Rule("Allow", protocol=TCP), host=host))
    host.apply()
    listener = b.socket(4, socket.SOCK_STREAM)
    listener.bind((b.ipv4.address_text, 80))
    listener.listen()
    client = a.socket(4, socket.SOCK_STREAM)
    client.connect((b.ipv4.address_text, 80))
    server, _ = listener.accept()
    server.settimeout(BRIEF)
    only(Rule("Deny", protocol=UDP), Rule("Allow", protocol=TCP), host=host)
    host.update(Kind.IP_SET, "s:x", IPSetType.NET)
    host.apply()
    client.send(b"still here")
    assert server.recv(32) == b"still here"
    for one in (client, server, listener):
        one.close()


def test_connections_of_a_gone_endpoint_are_cut(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    host.apply()
    assert hears(a, b, 80)
    assert host.conntrack.flows_involving([b.ipv4])
    host.remove(b)
    host.apply()
    assert not host.conntrack.flows_involving([b.ipv4])
    assert host.dataplane.statistics().connections_cut >= 1


def test_an_interface_that_passes_to_another_endpoint_stays_open(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    """In one batch additions come first: the old one's end must not close the new one."""
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    host.apply()
    old, b.id = b.id, type(b.id)("default", "successor")
    host.endpoint(b)
    host.update(Kind.ENDPOINT, old, None)
    host.apply()
    assert hears(a, b, 80)


def test_edits_of_values_leave_rules_and_counters_alone(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    near = parse_network("10.65.0.0/24")

    def rule(*ports: int) -> Rule:
        return Rule(
            "Allow", protocol=UDP, source=Side(networks=(near,)), destination=udp_to(*ports)
        )

    host.endpoint(b, ingress=only(rule(80), host=host))
    host.apply()
    assert hears(a, b, 80)
    before = host.rules()
    only(rule(81, 82, 83), host=host)
    host.apply()
    assert hears(a, b, 82)
    assert not hears(a, b, 80, patience=BRIEF)
    assert host.rules() == before
    only(Rule("Deny", protocol=TCP), rule(81), host=host)
    host.apply()
    assert before.items() <= host.rules().items(), "a rule above leaves those below in place"


# Restart, repair, others.


def test_a_restart_adopts_and_writes_nothing(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair

    def tell() -> None:
        host.allow_all_profile()
        host.update(Kind.POOL, parse_network("10.65.0.0/16"), Pool(masquerade=True))
        host.update(Kind.IP_SET, "s:x", IPSetType.NET)
        for text in ("10.65.0.0/24", "10.65.0.7", "10.66.0.1", "10.66.0.2", "fd00:65::/64",
                     "255.255.255.255", "0.0.0.0/8"):  # fmt: skip
            host.update(Kind.IP_SET_MEMBER, ("s:x", parse_network(text)), True)
        host.update(Kind.IP_SET, "n:x", IPSetType.ADDRESS_PORT)
        host.update(Kind.IP_SET_MEMBER, ("n:x", AddressPort(b.ipv6, TCP, 80)), True)
        side = Side(sets=("s:x",), ports=(PortRange(1, 80), PortRange(65535, 65535)),
                    named_ports=("n:x",), not_networks=(parse_network("10.0.0.0/9"),))  # fmt: skip
        rules = (
            Rule("Log"),
            Rule("Pass", protocol=UDP, source=Side(not_sets=("s:x",))),
            Rule("Deny", protocol=ICMP, icmp=ICMPMatch(8, 0)),
            Rule("Allow", protocol=TCP, destination=side),
            ALLOW_UDP,
        )
        host.endpoint(a)
        host.endpoint(b, ingress=PolicyList((tier(host.policy("p", ingress=rules)),), (ALLOW_ALL,)))
        host.apply()

    tell()
    assert hears(a, b, 80)
    generation, routes = host.generation(), host.rtnl.routes(protocol=80)
    host.restart()
    tell()
    assert host.generation() == generation, "not one write to nftables"
    assert host.rtnl.routes(protocol=80) == routes
    assert host.dataplane.in_sync
    host.resync()
    assert host.generation() == generation


def test_what_the_last_run_left_and_nobody_wants_goes(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b, ingress=only(ALLOW_UDP, host=host))
    host.update(Kind.IP_SET, "s:x", IPSetType.NET)
    host.apply()
    host.restart()
    host.allow_all_profile()
    host.endpoint(a)
    host.apply()
    assert not hears(a, b, 80, patience=BRIEF)
    assert not hears(b, a, 80, patience=BRIEF)
    assert {route.destination for route in host.rtnl.routes(protocol=80)} == {a.ipv4, a.ipv6}
    fresh = Host(host.settings)
    fresh.allow_all_profile()
    fresh.endpoint(a)
    generation = host.generation()
    fresh.apply()
    assert host.generation() == generation, "nothing of b is left"


@pytest.mark.parametrize(
    "damage",
    [
        "delete table inet tortie",
        "delete table arp tortie",
        "flush chain inet tortie forward-to",
        "flush set inet tortie sources4",
        "insert rule inet tortie forward-to accept",
        "add element inet tortie sources4 { cali9 . 10.9.9.9 }",
        "add chain inet tortie mine",
        "add chain inet tortie forward-to { policy drop ; }",
        "flush ruleset",
        "delete chain inet tortie output; add chain inet tortie output "
        "{ type filter hook input priority 5 ; }",
    ],
)
def test_damage_by_others_is_repaired(
    host: Host, pair: tuple[Workload, Workload], damage: str
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b, ingress=only(Rule("Allow", protocol=UDP, destination=udp_to(80)), host=host))
    host.apply()
    before = host.ruleset()
    subprocess.run(["nft", damage], check=True)
    assert host.ruleset() != before
    host.resync()
    assert host.ruleset() == before
    assert hears(a, b, 80)
    assert not hears(a, b, 81, patience=BRIEF)
    assert host.dataplane.statistics().nftables.repairs == 1
    host.resync()
    assert host.dataplane.statistics().nftables.repairs == 1, "nothing more to repair"


def test_tables_of_others_stay_as_they_are(host: Host, pair: tuple[Workload, Workload]) -> None:
    foreign = """
        add table inet filter
        add set inet filter s { type ipv4_addr; elements = { 10.0.0.1 } ; }
        add chain inet filter forward { type filter hook forward priority 0; }
        add rule inet filter forward ip saddr @s counter accept
        add table ip tortie
        add chain ip tortie input { type filter hook input priority 0; }
        add table arp filter
        add chain arp filter input { type filter hook input priority 0; }
        """
    tables = ("inet filter", "ip tortie", "arp filter")
    subprocess.run(["nft", "-f", "-"], input=foreign, text=True, check=True)
    a, b = pair
    before = host.ruleset(*tables)
    assert len(before) >= len(tables)
    host.endpoint(a)
    host.endpoint(b)
    host.apply()
    host.resync()
    assert hears(a, b, 80)
    assert host.ruleset(*tables) == before


def test_a_link_that_comes_back_gets_everything_again(host: Host) -> None:
    with workloads(host, 2) as (a, b):
        host.endpoint(a)
        host.endpoint(b)
        host.apply()
        assert hears(a, b, 80)
        host.rtnl.delete_link(b.interface)
        host.read_link_events()
        host.apply()
        assert not host.dataplane.endpoints_up()[b.id]
        again = Workload(2, host.rtnl)
        host.read_link_events()
        host.apply()
        assert host.dataplane.endpoints_up()[b.id]
        assert hears(a, again, 80)
        assert hears(a, again, 80, 6)
        assert host.sysctl(f"net.ipv4.conf.{b.interface}.proxy_arp") == "1"
        assert host.sysctl(f"net.ipv6.conf.{b.interface}.accept_ra") == "0"


def test_a_link_that_went_down_and_up_gets_its_routes_again(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    host.apply()
    for state in ("down", "up"):
        subprocess.run(["ip", "link", "set", b.interface, state], check=True)
        host.read_link_events()
        host.apply()
    assert hears(a, b, 80)
    # The workload's own end has lost its IPv6 neighbour by that; only the host's is at stake.
    assert {route.destination for route in host.rtnl.routes(protocol=80)} >= {b.ipv4, b.ipv6}
    macs = {n.address: n.mac for n in host.rtnl.neighbours()}
    assert macs[b.ipv6] == bytes.fromhex(b.mac.replace(":", ""))


def test_sysctls_are_repaired(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, _ = pair
    host.endpoint(a)
    host.apply()
    key = f"net.ipv4.conf.{a.interface}.rp_filter"
    subprocess.run(["sysctl", "-qw", f"{key}=0", "net.ipv4.ip_forward=0"], check=True)
    host.resync()
    assert host.sysctl(key) == "1"
    assert host.sysctl("net.ipv4.ip_forward") == "1"
    assert host.sysctl(f"net.ipv4.conf.{a.interface}.route_localnet") == "0"


# Masquerading and routes.


def test_masquerading_is_for_what_leaves_the_pools(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    """b plays the outside world: a neighbour that is in no pool."""
    a, b = pair
    host.endpoint(a)
    host.endpoint(b)
    subprocess.run(["ip", "addr", "add", "192.0.2.1/32", "dev", b.interface], check=True)
    host.update(Kind.POOL, parse_network("10.65.0.1/32"), Pool(masquerade=True))
    host.apply()
    assert a.seen_by(b) == "192.0.2.1"
    host.update(Kind.POOL, parse_network("10.65.0.2/32"), Pool())
    host.apply()
    assert a.seen_by(b) == a.ipv4.address_text
    host.update(Kind.POOL, parse_network("10.65.0.2/32"), None)
    host.update(Kind.POOL, parse_network("10.65.0.1/32"), Pool(masquerade=False))
    host.apply()
    assert a.seen_by(b) == a.ipv4.address_text


# Connections that policy let in before.


@pytest.fixture
def talks(host: Host, pair: tuple[Workload, Workload]) -> Iterator[tuple[Talk, Talk]]:
    """To ports 80 and 90 of b, both under way; policy allows UDP from a set."""
    a, b = pair
    host.update(Kind.IP_SET, "s:friends", IPSetType.NET)
    host.update(Kind.IP_SET_MEMBER, ("s:friends", a.ipv4), True)
    host.endpoint(a)
    friends = Rule("Allow", protocol=UDP, source=Side(sets=("s:friends",)))
    host.endpoint(b, ingress=only(friends, host=host))
    host.apply()
    made = Talk(a, b, 80), Talk(a, b, 90)
    assert all(talk.goes_on() for talk in made)
    yield made
    for talk in made:
        talk.close()


def test_a_connection_that_policy_now_denies_is_cut_and_others_go_on(
    host: Host, talks: tuple[Talk, Talk]
) -> None:
    to_80, to_90 = talks
    only(Rule("Deny", protocol=UDP, destination=udp_to(80)), ALLOW_UDP, host=host)
    settle(host)
    assert not to_80.goes_on(patience=BRIEF)
    assert to_90.goes_on()
    assert host.dataplane.statistics().connections_cut == 1


def test_a_member_that_goes_takes_its_connections_along(
    host: Host, pair: tuple[Workload, Workload], talks: tuple[Talk, Talk]
) -> None:
    host.update(Kind.IP_SET_MEMBER, ("s:friends", pair[0].ipv4), None)
    settle(host)
    assert not any(talk.goes_on(patience=BRIEF) for talk in talks)


def test_a_new_list_cuts_what_it_denies(
    host: Host, pair: tuple[Workload, Workload], talks: tuple[Talk, Talk]
) -> None:
    host.endpoint(pair[1], ingress=PolicyList())
    settle(host)
    assert not any(talk.goes_on(patience=BRIEF) for talk in talks)


def test_policy_that_tightened_while_nobody_ran_cuts_at_the_start(
    host: Host, pair: tuple[Workload, Workload], talks: tuple[Talk, Talk]
) -> None:
    a, b = pair
    host.restart()
    host.allow_all_profile()
    host.endpoint(a)
    to_90 = Rule("Allow", protocol=UDP, destination=udp_to(90))
    host.endpoint(b, ingress=only(to_90, host=host))
    settle(host)
    ended, other = talks
    assert not ended.goes_on(patience=BRIEF)
    assert other.goes_on()


def test_connections_of_this_host_to_its_workloads_are_never_cut(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, _ = pair
    subprocess.run(["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    host.endpoint(a)
    host.apply()
    assert pings(a.ipv4, source="192.0.2.1")
    host.endpoint(a, ingress=PolicyList())
    settle(host)
    assert host.dataplane.statistics().connections_cut == 0
    assert host.conntrack.flows_involving([a.ipv4])
