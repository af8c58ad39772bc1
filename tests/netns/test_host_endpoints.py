"""Host endpoints against the real kernel: packets between machines decide."""

import subprocess
from collections.abc import Iterator

import pytest
from tests.netns.dataplane_host import (
    ALLOW_ALL,
    BRIEF,
    PATIENCE,
    Host,
    Workload,
    hears,
    pings,
    tier,
    workloads,
)
from tests.netns.outside import HOST, OTHER, THIS_HOST, Machine, machines, tcp, udp

from tortie.dataplane.settings import ProtoPort, Settings
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    TCP,
    UDP,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
    TierPolicies,
)
from tortie.lib.ip import parse_address, parse_network

pytestmark = pytest.mark.usefixtures("netns")

FAMILIES = (4, 6)
both_families = pytest.mark.parametrize("family", FAMILIES)
SSH, ETCD, DNS, WEB = 22, 2379, 53, 8080

SETTINGS = Settings(
    host="h1",
    failsafe_inbound=(ProtoPort(TCP, SSH), ProtoPort(UDP, SSH)),
    failsafe_outbound=(ProtoPort(UDP, DNS), ProtoPort(TCP, ETCD)),
)


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host(SETTINGS)
    made.allow_all_profile()
    yield made
    made.close()


def of(*policies: PolicyId, default: str = "Deny") -> PolicyList:
    return PolicyList((tier(*policies, default=default),))


def early(*policies: PolicyId) -> PolicyList:
    """As calc gives untracked and pre-DNAT lists: what nothing decides goes on."""
    return of(*policies, default="Pass")


OPEN = PolicyList(profiles=(ALLOW_ALL,))


def port(number: int) -> Side:
    return Side(ports=(PortRange(number, number),))


def to(number: int, action: str = "Allow") -> tuple[Rule, ...]:
    """To this port, over either protocol."""
    assert action in ("Allow", "Deny")
    return tuple(
        Rule("Allow" if action == "Allow" else "Deny", protocol=one, destination=port(number))
        for one in (TCP, UDP)
    )


def give(host: Host, name: str = "hep", **lists: object) -> None:
    fields = {"interface": "up0", **lists}
    host.update(Kind.HOST_ENDPOINT, name, HostEndpoint(**fields))  # type: ignore[arg-type]
    host.apply()


def comes_in(outside: Machine, family: int, number: int, patience: float = PATIENCE) -> bool:
    """By UDP and by TCP, which must agree."""
    found = {
        udp(outside, THIS_HOST, outside.near[family], number, patience=patience),
        tcp(outside, THIS_HOST, outside.near[family], number, patience=patience),
    }
    assert len(found) == 1, found
    return found.pop()


def goes_out(outside: Machine, family: int, number: int, patience: float = PATIENCE) -> bool:
    found = {
        udp(THIS_HOST, outside, outside.address(family), number, patience=patience),
        tcp(THIS_HOST, outside, outside.address(family), number, patience=patience),
    }
    assert len(found) == 1, found
    return found.pop()


# What is for the host, and what it makes.


@both_families
def test_without_a_host_endpoint_all_is_open(host: Host, outside: Machine, family: int) -> None:
    host.apply()
    assert comes_in(outside, family, WEB)
    assert goes_out(outside, family, WEB)
    assert pings(outside.address(family))


@both_families
def test_a_host_endpoint_without_policy_leaves_failsafe_ports_alone(
    host: Host, outside: Machine, family: int
) -> None:
    give(host)
    assert not comes_in(outside, family, WEB, patience=BRIEF)
    assert not goes_out(outside, family, WEB, patience=BRIEF)
    assert not pings(outside.address(family), patience=BRIEF)
    assert comes_in(outside, family, SSH), "answers pass as part of the connection"
    assert udp(THIS_HOST, outside, outside.address(family), DNS)
    assert tcp(THIS_HOST, outside, outside.address(family), ETCD)
    # The protocol counts, and a failsafe port is one only on its side.
    assert not udp(THIS_HOST, outside, outside.address(family), ETCD, patience=BRIEF)
    assert not udp(outside, THIS_HOST, outside.near[family], DNS, patience=BRIEF)
    assert not udp(outside, THIS_HOST, outside.near[family], WEB, source_port=SSH, patience=BRIEF)


@both_families
def test_policy_opens_what_it_says(host: Host, outside: Machine, family: int) -> None:
    web = host.policy("web", ingress=to(WEB), egress=to(WEB + 1))
    give(host, ingress=of(web), egress=of(web))
    assert comes_in(outside, family, WEB)
    assert not comes_in(outside, family, WEB + 1, patience=BRIEF)
    assert goes_out(outside, family, WEB + 1)
    assert not goes_out(outside, family, WEB, patience=BRIEF)
    give(host, ingress=OPEN, egress=OPEN)
    assert comes_in(outside, family, WEB + 1), "the profile says so"
    assert goes_out(outside, family, WEB)
    host.update(Kind.HOST_ENDPOINT, "hep", None)
    host.apply()
    assert comes_in(outside, family, WEB)


def test_other_interfaces_are_not_concerned(host: Host, two: tuple[Machine, Machine]) -> None:
    one, other = two
    give(host)
    assert not comes_in(one, 4, WEB, patience=BRIEF)
    assert comes_in(other, 4, WEB)


@both_families
def test_a_failsafe_port_of_some_peers_only(netns: None, family: int) -> None:
    networks = [parse_network("192.0.2.2/31"), parse_network("fd00:2::2/127")]
    elsewhere = [parse_network("192.0.2.0/31"), parse_network("fd00:2::/127")]
    settings = Settings(
        host="h1",
        failsafe_inbound=tuple(
            ProtoPort(UDP, number, one)
            for number, many in ((SSH, networks), (WEB, elsewhere))
            for one in many
        ),
        failsafe_outbound=tuple(
            ProtoPort(UDP, number, one)
            for number, many in ((DNS, networks), (ETCD, elsewhere))
            for one in many
        ),
    )
    host = Host(settings)
    with machines(host, "up0") as made:
        give(host)
        outside = made[0]
        assert udp(outside, THIS_HOST, outside.near[family], SSH)
        assert not udp(outside, THIS_HOST, outside.near[family], WEB, patience=BRIEF)
        assert udp(THIS_HOST, outside, outside.address(family), DNS)
        assert not udp(THIS_HOST, outside, outside.address(family), ETCD, patience=BRIEF)
    host.close()


@both_families
def test_the_host_always_reaches_its_workloads(
    host: Host, outside: Machine, workload: Workload, family: int
) -> None:
    give(host, interface="*")
    assert pings(workload.address(family))
    assert udp(THIS_HOST, workload, workload.address(family), WEB)
    assert not pings(outside.address(family), patience=BRIEF)


def test_loopback_belongs_to_no_endpoint_of_all_interfaces(host: Host) -> None:
    give(host, interface="*")
    for text in ("127.0.0.1", "::1"):
        assert udp(THIS_HOST, THIS_HOST, parse_address(text), WEB)
    give(host, interface="lo")
    for text in ("127.0.0.1", "::1"):
        assert not udp(THIS_HOST, THIS_HOST, parse_address(text), WEB, patience=BRIEF)


def test_neighbours_of_a_closed_interface_are_found(host: Host, outside: Machine) -> None:
    give(host)
    subprocess.run(["ip", "-6", "neigh", "flush", "dev", "up0"], check=True)
    outside.run("ip -6 neigh flush dev eth0")
    assert comes_in(outside, 6, SSH)


# Which host endpoint an interface belongs to.


def test_the_one_of_all_interfaces_is_for_those_that_have_none(
    host: Host, two: tuple[Machine, Machine]
) -> None:
    one, other = two
    web = host.policy("web", ingress=to(WEB))
    give(host, "all", interface="*", ingress=of(web))
    assert comes_in(one, 4, WEB)
    assert comes_in(other, 4, WEB)
    give(host, "z-own", interface="up1")
    assert comes_in(one, 4, WEB)
    assert not comes_in(other, 4, WEB, patience=BRIEF)


@both_families
def test_an_endpoint_goes_by_the_address_of_an_interface(
    host: Host, two: tuple[Machine, Machine], family: int
) -> None:
    one, other = two
    give(host, interface="", addresses=(one.near[family],))
    assert not comes_in(one, family, WEB, patience=BRIEF)
    assert comes_in(other, family, WEB)
    # The address moves to the other link.
    address = f"{one.near[family].address_text}/128" if family == 6 else one.near[4].address_text
    flag = "nodad" if family == 6 else ""
    script = f"ip addr del {one.near[family].address_text}/{64 if family == 6 else 24} dev up0"
    subprocess.run(["sh", "-ec", f"{script}; ip addr add {address} dev up1 {flag}"], check=True)
    host.read_link_events()
    host.apply()
    assert not comes_in(other, family, WEB, patience=BRIEF)


def test_a_named_interface_is_closed_before_it_comes(host: Host) -> None:
    give(host, interface="up7")
    with machines(host, "up7") as made:
        assert not comes_in(made[0], 4, WEB, patience=BRIEF)
        assert comes_in(made[0], 4, SSH)


@pytest.mark.parametrize("interface", ["a-name-longer-than-15-bytes", "cali1"])
def test_an_interface_that_cannot_be_is_ignored(host: Host, interface: str) -> None:
    give(host, interface=interface)
    assert host.dataplane.in_sync
    assert "host-input" not in "".join(host.ruleset())


# What passes by.


@both_families
def test_forwarded_packets_are_not_asked_without_a_policy_for_them(
    host: Host, two: tuple[Machine, Machine], workload: Workload, family: int
) -> None:
    one, other = two
    give(host)
    give(host, "other", interface="up1")
    assert udp(one, other, other.address(family), WEB)
    assert udp(one, workload, workload.address(family), WEB)
    assert udp(workload, one, one.address(family), WEB)


@both_families
def test_forward_policy_at_either_end(
    host: Host, two: tuple[Machine, Machine], family: int
) -> None:
    one, other = two
    web = host.policy("web", ingress=to(WEB), egress=to(WEB + 1))
    give(host, forward_ingress=of(web))
    assert udp(one, other, other.address(family), WEB)
    assert not udp(one, other, other.address(family), WEB + 1, patience=BRIEF)
    assert not udp(one, other, other.address(family), SSH, patience=BRIEF), (
        "no failsafe for what passes by"
    )
    assert udp(other, one, one.address(family), WEB + 1)
    give(host, forward_egress=of(web))
    assert udp(one, other, other.address(family), WEB + 1)
    assert udp(other, one, one.address(family), WEB + 1)
    assert not udp(other, one, one.address(family), WEB, patience=BRIEF)


@both_families
def test_forward_policy_and_a_workloads_own_must_agree(
    host: Host, outside: Machine, family: int
) -> None:
    both, forward = host.policy("both", ingress=to(WEB)), host.policy("forward", ingress=to(WEB))
    wide = host.policy("wide", ingress=(*to(WEB), *to(WEB + 1)))
    with workloads(host, 1) as made:
        guarded = made[0]
        host.endpoint(guarded, ingress=of(both))
        give(host, forward_ingress=of(wide))
        assert udp(outside, guarded, guarded.address(family), WEB)
        assert not udp(outside, guarded, guarded.address(family), WEB + 1, patience=BRIEF)
        host.endpoint(guarded, ingress=of(wide))
        give(host, forward_ingress=of(forward))
        assert udp(outside, guarded, guarded.address(family), WEB)
        assert not udp(outside, guarded, guarded.address(family), WEB + 1, patience=BRIEF)


@both_families
def test_forward_policy_of_all_interfaces_is_asked_between_workloads_too(
    host: Host, family: int
) -> None:
    web = host.policy("web", ingress=to(WEB))
    with workloads(host, 2) as (a, b):
        host.endpoint(a)
        host.endpoint(b)
        give(host, interface="*", forward_ingress=of(web))
        assert hears(a, b, WEB, family)
        assert not hears(a, b, WEB + 1, family, patience=BRIEF)
        closed = host.policy("closed", egress=to(WEB, "Deny"))
        give(host, interface="*", forward_egress=of(closed))
        assert not hears(a, b, WEB, family, patience=BRIEF)


# Before connection tracking.


def tracked(host: Host) -> int:
    """Connections that this host knows of the other machine."""
    return len(host.conntrack.flows_involving(frozenset(OTHER.values())))


@both_families
def test_what_untracked_policy_allows_is_not_tracked_and_not_asked_again(
    host: Host, outside: Machine, family: int
) -> None:
    here = Rule("Allow", protocol=UDP, source=port(WEB))
    fast = host.policy("fast", ingress=to(WEB), egress=(here,))
    give(host, untracked_ingress=early(fast), untracked_egress=early(fast))
    assert udp(outside, THIS_HOST, outside.near[family], WEB)
    assert tracked(host) == 0
    assert not udp(outside, THIS_HOST, outside.near[family], WEB + 1, patience=BRIEF), (
        "the normal list is asked"
    )
    give(host, untracked_ingress=early(fast))
    assert not udp(outside, THIS_HOST, outside.near[family], WEB, patience=BRIEF), (
        "nobody knows the answer"
    )
    assert udp(outside, THIS_HOST, outside.near[family], WEB, answered=False)


@both_families
def test_what_untracked_policy_denies_is_not_asked_again(
    host: Host, outside: Machine, family: int
) -> None:
    never = host.policy("never", ingress=to(WEB, "Deny"), egress=to(WEB + 1, "Deny"))
    give(
        host,
        ingress=OPEN,
        egress=OPEN,
        untracked_ingress=early(never),
        untracked_egress=early(never),
    )
    assert not comes_in(outside, family, WEB, patience=BRIEF)
    assert comes_in(outside, family, WEB + 1)
    assert not goes_out(outside, family, WEB + 1, patience=BRIEF)
    assert goes_out(outside, family, WEB)


@both_families
def test_failsafe_ports_stay_open_and_tracked_before_untracked_policy(
    host: Host, outside: Machine, family: int
) -> None:
    nothing = host.policy("nothing", ingress=(Rule("Deny"),), egress=(Rule("Deny"),))
    give(host, untracked_ingress=early(nothing), untracked_egress=early(nothing))
    assert comes_in(outside, family, SSH)
    assert tracked(host)
    assert udp(THIS_HOST, outside, outside.address(family), DNS), "so do the answers"
    assert tcp(THIS_HOST, outside, outside.address(family), ETCD)
    # An answer's port opens nothing by itself.
    assert not udp(outside, THIS_HOST, outside.near[family], WEB, source_port=DNS, patience=BRIEF)
    assert not udp(outside, THIS_HOST, outside.near[family], WEB, patience=BRIEF)


@both_families
def test_untracked_policy_spares_the_forward_list_of_where_it_comes_in(
    host: Host, two: tuple[Machine, Machine], workload: Workload, family: int
) -> None:
    one, other = two
    fast = host.policy("fast", ingress=to(WEB))
    nothing = host.policy("nothing", ingress=(Rule("Deny"),), egress=(Rule("Deny"),))
    give(host, untracked_ingress=early(fast), forward_ingress=of(nothing))
    assert udp(one, other, other.address(family), WEB, answered=False)
    assert udp(one, workload, workload.address(family), WEB, answered=False)
    assert not udp(one, other, other.address(family), WEB + 1, answered=False, patience=BRIEF)
    give(host, "other", interface="up1", forward_egress=of(nothing))
    assert not udp(one, other, other.address(family), WEB, answered=False, patience=BRIEF)


def test_an_endpoint_of_all_interfaces_has_no_untracked_lists(host: Host, outside: Machine) -> None:
    never = host.policy("never", ingress=(Rule("Deny"),))
    give(host, interface="*", ingress=OPEN, egress=OPEN, untracked_ingress=early(never))
    assert comes_in(outside, 4, WEB)


# Before destination NAT.


@pytest.mark.parametrize("family", [4, 6])
def test_without_pre_dnat_policy_of_its_own_an_interface_has_that_of_all(
    host: Host, outside: Machine, family: int
) -> None:
    """As in Calico; the other lists of its own endpoint count, empty or not."""
    every = early(host.policy("every", ingress=to(WEB, "Deny")))
    own = early(host.policy("own", ingress=to(WEB + 1, "Deny")))
    give(host, "all", interface="*", pre_dnat=every)
    give(host, ingress=OPEN, egress=OPEN)
    assert not comes_in(outside, family, WEB, patience=BRIEF)
    assert comes_in(outside, family, WEB + 1)
    give(host, ingress=OPEN, egress=OPEN, pre_dnat=own)
    assert comes_in(outside, family, WEB)
    assert not comes_in(outside, family, WEB + 1, patience=BRIEF)


@pytest.fixture
def published(host: Host, outside: Machine, workload: Workload) -> Workload:
    """A foreign table that publishes the workload's WEB at this host's WEB + 1."""
    rules = "".join(
        f"""{protocol} dport {WEB + 1} ip daddr {HOST[4].address_text}
            dnat ip to {workload.ipv4.address_text}:{WEB}
        {protocol} dport {WEB + 1} ip6 daddr {HOST[6].address_text}
            dnat ip6 to [{workload.ipv6.address_text}]:{WEB}
        """.replace("\n            ", " ")
        for protocol in ("tcp", "udp")
    )
    table = f"""table inet foreign {{
        chain pre {{ type nat hook prerouting priority -100
        {rules} }}
        chain out {{ type nat hook output priority -100
        {rules} }}
    }}"""
    subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)
    return workload


def fetches(outside: Machine, workload: Workload, family: int) -> bool:
    """Whether the other machine gets at what is published."""
    to = outside.near[family]
    with workload.socket(family, 2) as server:
        server.bind((workload.address(family).address_text, WEB))
        with outside.socket(family, 2) as client:
            client.settimeout(0.15)
            client.sendto(b"ask", (to.address_text, WEB + 1))
            try:
                _, peer = server.recvfrom(16)
                server.sendto(b"answer", peer)
                return client.recv(16) == b"answer"
            except OSError:
                return False


@both_families
def test_pre_dnat_policy_sees_the_port_that_was_asked_for(
    host: Host, outside: Machine, published: Workload, family: int
) -> None:
    host.apply()
    assert fetches(outside, published, family)
    give(host, pre_dnat=early(host.policy("p", ingress=to(WEB, "Deny"))))
    assert fetches(outside, published, family), "that is where it goes, not where it went"
    give(host, pre_dnat=early(host.policy("p", ingress=to(WEB + 1, "Deny"))))
    assert not fetches(outside, published, family)


@both_families
def test_what_pre_dnat_policy_allows_is_not_asked_again(
    host: Host, outside: Machine, published: Workload, family: int
) -> None:
    nothing = host.policy("nothing", ingress=(Rule("Deny"),))
    hole = host.policy("hole", ingress=(*to(WEB + 1), *to(WEB + 2), Rule("Deny")))
    give(host, forward_ingress=of(nothing))
    assert not fetches(outside, published, family)
    give(host, pre_dnat=early(hole), forward_ingress=of(nothing))
    assert fetches(outside, published, family)
    # So for the host's own ports; and failsafe ports are never asked about.
    assert comes_in(outside, family, WEB + 2)
    assert not comes_in(outside, family, WEB + 3, patience=BRIEF)
    assert comes_in(outside, family, SSH)


@both_families
def test_a_workload_that_pre_dnat_policy_lets_in_still_has_its_own(
    host: Host, outside: Machine, published: Workload, family: int
) -> None:
    give(host, pre_dnat=early(host.policy("all", ingress=(Rule("Allow"),))))
    assert fetches(outside, published, family)
    host.endpoint(published, ingress=PolicyList())
    host.apply()
    assert not fetches(outside, published, family)


# Destination NAT of what the host makes.


@both_families
def test_what_the_host_sends_through_destination_nat_is_asked_where_it_goes_out(
    host: Host, two: tuple[Machine, Machine], workload: Workload, family: int
) -> None:
    one, other = two
    service = {4: parse_address("198.51.100.7"), 6: parse_address("fd00:7::7")}[family]
    near, ip = one.near[family].address_text, "ip6" if family == 6 else "ip"
    subprocess.run(
        ["ip", f"-{family}", "route", "add", "default", "via", one.address(family).address_text],
        check=True,
    )

    def leads_to(target: str) -> None:
        table = f"""add table inet foreign
        delete table inet foreign
        table inet foreign {{
            chain out {{
                type nat hook output priority -100
                {ip} daddr {service.address_text} dnat {ip} to {target}
            }}
            chain post {{
                type nat hook postrouting priority 100
                oifname "up1" {ip} saddr {near} masquerade
            }}
        }}"""
        subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)

    give(host, egress=OPEN, ingress=OPEN)
    give(host, "other", interface="up1")
    far = other.address(family)
    leads_to(far.address_text)
    assert not udp(THIS_HOST, other, service, WEB, serving=far, patience=BRIEF), (
        "it would leave by up1"
    )
    assert udp(THIS_HOST, other, service, DNS, serving=far), "a failsafe port"
    give(host, "other", interface="up1", egress=of(host.policy("web", egress=to(WEB))))
    assert udp(THIS_HOST, other, service, WEB, serving=far)
    give(host)
    assert udp(THIS_HOST, other, service, WEB, serving=far), "up0 is not where it goes"
    leads_to(workload.address(family).address_text)
    assert udp(THIS_HOST, workload, service, WEB, serving=workload.address(family))


# Tiers.


@both_families
def test_tiers_and_pass(host: Host, outside: Machine, family: int) -> None:
    first = host.policy(
        "first",
        ingress=tuple(Rule("Pass", protocol=one, destination=port(WEB)) for one in (TCP, UDP)),
    )
    second = host.policy("second", ingress=(Rule("Allow"),))
    both = PolicyList((tier(first, name="first"), tier(second, name="second")))
    give(host, ingress=both)
    assert comes_in(outside, family, WEB)
    assert not comes_in(outside, family, WEB + 1, patience=BRIEF), (
        "the first tier denies at its end"
    )
    open_ended = TierPolicies("first", "Pass", (first,))
    give(host, ingress=PolicyList((open_ended, tier(second, name="second"))))
    assert comes_in(outside, family, WEB + 1)


# What it costs, and what becomes of it.


def everything(host: Host) -> None:
    """A host endpoint with all its lists, and one of all interfaces."""
    web = host.policy("web", ingress=to(WEB), egress=to(WEB))
    never = host.policy("never", ingress=to(WEB + 1, "Deny"), egress=to(WEB + 1, "Deny"))
    host.allow_all_profile()
    give(
        host,
        ingress=of(web),
        egress=OPEN,
        forward_ingress=of(web),
        forward_egress=of(web),
        untracked_ingress=early(never),
        untracked_egress=early(never),
        pre_dnat=early(never),
    )
    give(host, "all", interface="*", ingress=OPEN, egress=OPEN, pre_dnat=early(never))


def test_a_restart_adopts_them_and_writes_nothing(host: Host, outside: Machine) -> None:
    everything(host)
    generation = host.generation()
    host.restart()
    web = host.policy("web", ingress=to(WEB), egress=to(WEB))
    never = host.policy("never", ingress=to(WEB + 1, "Deny"), egress=to(WEB + 1, "Deny"))
    host.allow_all_profile()
    every = HostEndpoint("*", ingress=OPEN, egress=OPEN, pre_dnat=early(never))
    own = HostEndpoint(
        "up0",
        ingress=of(web),
        egress=OPEN,
        forward_ingress=of(web),
        forward_egress=of(web),
        untracked_ingress=early(never),
        untracked_egress=early(never),
        pre_dnat=early(never),
    )
    host.update(Kind.HOST_ENDPOINT, "all", every)
    host.update(Kind.HOST_ENDPOINT, "hep", own)
    host.apply()
    assert host.generation() == generation
    assert comes_in(outside, 4, WEB)


def test_nothing_of_them_stays(host: Host) -> None:
    host.apply()
    before = host.ruleset()
    everything(host)
    assert host.ruleset() != before
    for name in ("hep", "all"):
        host.update(Kind.HOST_ENDPOINT, name, None)
    host.apply()
    assert host.ruleset() == before
    everything(host)
    host.restart()
    host.apply()
    assert host.ruleset() == before, "what the last run left goes, too"


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "flush chain inet tortie host-input",
        "delete chain inet tortie host-raw-output",
        "flush map inet tortie host-ingress-lists",
        "insert rule inet tortie host-always-ingress accept",
        "add element inet tortie failsafe-inbound { tcp . 8081 }",
        "add element inet tortie pre-dnat-ingress-lists { eth9 : 0x0 . :: }",
    ],
)
def test_damage_by_others_is_repaired(host: Host, outside: Machine, damage: str) -> None:
    everything(host)
    before = host.ruleset()
    subprocess.run(["nft", damage], check=True)
    assert host.ruleset() != before
    host.resync()
    assert host.ruleset() == before
    assert not comes_in(outside, 4, WEB + 1, patience=BRIEF)
    assert comes_in(outside, 4, WEB)


def test_another_known_list_is_a_change_of_elements(host: Host, outside: Machine) -> None:
    everything(host)
    give(host, "second", interface="up1", ingress=OPEN)
    before = host.rules()
    give(host, "second", interface="up1", ingress=of(host.policy("web", ingress=to(WEB))))
    give(host, ingress=OPEN, egress=OPEN)
    give(host, "second", interface="up2", ingress=OPEN, egress=OPEN)
    after = host.rules()
    assert comes_in(outside, 4, WEB + 2)
    assert all(after[handle] == rule for handle, rule in before.items() if handle in after)
    assert not after.keys() - before.keys(), "no rule is new"


def test_a_policy_may_change_its_place(host: Host, outside: Machine) -> None:
    never = host.policy("never", ingress=to(WEB, "Deny"))
    give(host, ingress=of(never), egress=OPEN)
    assert not comes_in(outside, 4, WEB, patience=BRIEF)
    give(host, ingress=OPEN, egress=OPEN, untracked_ingress=early(never))
    assert not comes_in(outside, 4, WEB, patience=BRIEF)
    assert comes_in(outside, 4, WEB + 1)
    give(host, ingress=OPEN, egress=OPEN, pre_dnat=early(never), forward_ingress=of(never))
    assert not comes_in(outside, 4, WEB, patience=BRIEF)
    give(host, ingress=OPEN, egress=OPEN, forward_ingress=of(never))
    assert comes_in(outside, 4, WEB)


def test_a_link_that_takes_another_name_is_another_interface(host: Host, outside: Machine) -> None:
    give(host)
    assert not comes_in(outside, 4, WEB, patience=BRIEF)
    subprocess.run(
        ["sh", "-ec", "ip link set up0 down; ip link set up0 name up5; ip link set up5 up"],
        check=True,
    )
    host.read_link_events()
    host.apply()
    assert comes_in(outside, 4, WEB)
    give(host, interface="up5")
    assert not comes_in(outside, 4, WEB, patience=BRIEF)


def test_their_status_is_that_of_their_links(host: Host, two: tuple[Machine, Machine]) -> None:
    """As Felix reports it."""
    a, b = two
    for name, interface, address in (
        ("named", "up0", None),
        ("second", "up0", None),  # another one has the interface
        ("by address", "", b.near[4]),
        ("nowhere", "eth9", None),
        ("no such address", "", parse_address("203.0.113.1")),
        ("all", "*", None),
    ):
        found = HostEndpoint(interface, (address,) if address is not None else ())
        host.update(Kind.HOST_ENDPOINT, name, found)
    host.apply()
    wanted = {
        "named": "up",
        "second": "error",
        "by address": "up",
        "nowhere": "error",
        "no such address": "error",
        "all": "up",
    }
    assert host.dataplane.host_endpoint_statuses() == wanted
    host.read_link_events()
    a.run("ip link set eth0 down")
    host.read_link_events()
    host.apply()
    assert host.dataplane.host_endpoint_statuses() == wanted | {"named": "down"}
    subprocess.run(["ip", "link", "del", "up0"], check=True)
    host.read_link_events()
    host.apply()
    assert host.dataplane.host_endpoint_statuses()["named"] == "error"
    assert host.dataplane.host_endpoint_statuses()["by address"] == "up"
