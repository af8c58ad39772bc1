"""Rendering: desired state in, the nft text of chains and the elements of sets out.

Names are hashes, so texts here have them replaced by what they stand for.
"""

import pytest

from tortie.dataplane.rules import endpoint, lists, names, policy, static
from tortie.dataplane.rules.content import Content
from tortie.dataplane.rules.policy import disjoint
from tortie.dataplane.settings import MetadataServer, Settings
from tortie.desired.endpoint import Endpoint
from tortie.desired.policy import (
    ICMP,
    TCP,
    UDP,
    ICMPMatch,
    Policy,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
    TierPolicies,
)
from tortie.kernel.nft.expressions import Counter
from tortie.kernel.nft.script import rule_text
from tortie.lib.ip import Network, parse_address, parse_network

SETTINGS = Settings(host="h1")
WEB = PolicyId("GlobalNetworkPolicy", "web")
ADMIN = PolicyId("NetworkPolicy", "admin", "prod")
PROFILE = PolicyId("Profile", "default")


def texts(content: Content) -> list[str]:
    """The rules of the only chain, without comments and counts."""
    ((_, chain),) = content.chains.items()
    return [
        rule_text(rule).partition(" comment ")[0].replace("counter packets 0 bytes 0 ", "")
        for rule in chain.rules
    ]


def rendered(*rules: Rule, settings: Settings = SETTINGS) -> Content:
    return policy.policy_chain(WEB, Policy(ingress=rules), "ingress", settings)


def net(*texts: str) -> tuple[Network, ...]:
    return tuple(map(parse_network, texts))


def members(content: Content, prefix: str) -> list[str]:
    """Elements of all sets whose names begin so, as `first-last` in hexadecimal."""
    return sorted(
        f"{key[: len(key) // 2].hex()}-{key[len(key) // 2 :].hex()}"
        for name, keys in content.elements.items()
        if name.startswith(prefix)
        for key in keys
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("Allow"), "accept"),
        (Rule("Deny", protocol=TCP), "meta l4proto tcp drop"),
        (Rule("Deny", not_protocol=UDP), "meta l4proto != udp drop"),
        (Rule("Pass"), "meta mark set meta mark & 0xfffeffff ^ 0x00010000 return"),
        (Rule("Log"), 'log prefix "calico-packet: " level notice'),
        (Rule("Deny", family=6), "meta nfproto ipv6 drop"),
    ],
)
def test_simple_rules(rule: Rule, expected: str) -> None:
    assert texts(rendered(rule)) == [expected]


def test_every_rule_counts() -> None:
    for action in ("Allow", "Deny", "Pass", "Log"):
        ((_, chain),) = rendered(Rule(action)).chains.items()
        assert chain.rules[0].expressions[0] == Counter()


def listed_ports(content: Content) -> list[int]:
    """Ports in the shared set, whatever rule they are of."""
    return sorted(int.from_bytes(key[16:18], "big") for key in content.shared[names.RULE_PORTS])


def test_few_ports_are_elements_that_carry_the_rule() -> None:
    ports = (PortRange(80, 82), PortRange(81, 83), PortRange(443, 443))
    content = rendered(Rule("Allow", protocol=TCP, destination=Side(ports=ports)))
    assert not content.sets
    assert listed_ports(content) == [80, 81, 82, 83, 443]
    (text,) = texts(content)
    assert text.endswith(f". th dport @{names.RULE_PORTS} accept")


def test_an_edit_of_few_ports_leaves_the_rule_as_it_is() -> None:
    one, other = (
        rendered(Rule("Allow", protocol=TCP, destination=Side(ports=(PortRange(port, port),))))
        for port in (80, 81)
    )
    assert one.chains == other.chains
    assert one.shared != other.shared


def test_the_most_ports_that_are_elements() -> None:
    most, more = (
        rendered(Rule("Deny", protocol=TCP, source=Side(ports=(PortRange(1, last),))))
        for last in (policy.PORTS_LISTED, policy.PORTS_LISTED + 1)
    )
    assert len(listed_ports(most)) == policy.PORTS_LISTED
    assert not most.sets
    assert len(more.sets) == 1
    assert not listed_ports(more)


def test_many_ports_are_a_set_of_ranges_that_do_not_touch() -> None:
    ports = (PortRange(80, 80), PortRange(81, 190), PortRange(85, 195), PortRange(443, 443))
    content = rendered(Rule("Allow", protocol=TCP, destination=Side(ports=ports)))
    (name,) = content.sets
    assert texts(content) == [f"meta l4proto tcp th dport @{name} accept"]
    assert content.sets[name].interval
    assert members(content, "q-") == ["0050-00c3", "01bb-01bb"]


def test_disjoint_ranges_reach_the_last_port() -> None:
    ranges = (PortRange(0, 65535), PortRange(65535, 65535))
    assert disjoint(ranges) == [PortRange(0, 65535)]


def test_networks_split_by_family_and_only_into_families_that_have_some() -> None:
    both = net("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")
    content = rendered(Rule("Allow", source=Side(networks=both)))
    v4, v6 = sorted(content.sets)
    assert texts(content) == [
        f"meta nfproto ipv4 ip saddr @{v4} accept",
        f"meta nfproto ipv6 ip6 saddr @{v6} accept",
    ]
    assert members(content, "n4-") == ["0a000000-0affffff"], "the outer network covers the inner"
    only_v4 = rendered(Rule("Allow", source=Side(networks=net("10.0.0.0/8"))))
    assert [text.partition(" @")[0] for text in texts(only_v4)] == ["meta nfproto ipv4 ip saddr"]


def test_negated_networks_of_one_family_do_not_restrict_the_other() -> None:
    content = rendered(Rule("Allow", source=Side(not_networks=net("10.0.0.0/8"))))
    (name,) = content.sets
    assert texts(content) == [
        f"meta nfproto ipv4 ip saddr != @{name} accept",
        "meta nfproto ipv6 accept",
    ]


def test_sets_are_shared_by_id_and_follow_their_width() -> None:
    rule = Rule("Allow", source=Side(sets=("s:a",)), destination=Side(not_sets=("s:b",)))
    content = policy.policy_chain(
        WEB,
        Policy(egress=(rule,)),
        "egress",
        SETTINGS,
        set_forms={("s:b", 4): policy.Form.NETWORKS},
    )
    a4, a6, b6 = (names.net_set(*one, wide=False) for one in (("s:a", 4), ("s:a", 6), ("s:b", 6)))
    wide_b4 = names.net_set("s:b", 4, wide=True)
    assert not content.sets, "these sets belong to nobody's chain"
    assert texts(content) == [
        f"meta nfproto ipv4 ip saddr @{a4} ip daddr != @{wide_b4} accept",
        f"meta nfproto ipv6 ip6 saddr @{a6} ip6 daddr != @{b6} accept",
    ]


def test_numbers_and_names_of_ports_are_alternatives_on_each_side() -> None:
    one = Side(ports=(PortRange(1, 2),), named_ports=("n:a", "n:b"))
    other = Side(ports=(PortRange(3, 4),), named_ports=("n:c",))
    content = rendered(Rule("Allow", protocol=TCP, source=one, destination=other))
    assert len(texts(content)) == 3 * 2 * 2, "products, for each family"


def test_without_ipv6_rules_are_for_ipv4_alone() -> None:
    settings = Settings(host="h1", ipv6=False)
    rule = Rule("Allow", source=Side(sets=("s:a",)))
    assert len(texts(rendered(rule, Rule("Deny", family=6), settings=settings))) == 1


def test_an_icmp_type_without_a_protocol_means_the_icmp_of_each_family() -> None:
    content = rendered(Rule("Allow", icmp=ICMPMatch(1, 2)))
    assert ["l4proto icmp " in text for text in texts(content)] == [True, False]
    (with_protocol,) = texts(rendered(Rule("Deny", protocol=ICMP, icmp=ICMPMatch(8))))
    assert with_protocol.startswith("meta l4proto icmp ")


def test_names_of_value_sets_outlive_edits_of_values_and_rules_above() -> None:
    def rule(port: int, *networks: str) -> Rule:
        side = Side(ports=(PortRange(port, port),), networks=net(*networks))
        return Rule("Allow", protocol=TCP, destination=side)

    before = rendered(rule(80, "10.0.0.0/8"))
    edited = rendered(rule(81, "10.0.0.0/9", "11.0.0.0/8"))
    assert before.chains == edited.chains
    assert before.sets == edited.sets
    assert before.elements != edited.elements
    below = rendered(
        Rule("Deny", protocol=UDP, source=Side(ports=(PortRange(1, 1),))), rule(80, "10.0.0.0/8")
    )
    assert below.sets.items() >= before.sets.items()
    assert below.shared[names.RULE_PORTS] >= before.shared[names.RULE_PORTS]
    # Two rules of one shape must not share a set.
    twice = rendered(rule(80, "10.0.0.0/8"), rule(81, "10.0.0.0/8"))
    assert len(twice.sets) == 2 * len(before.sets)
    assert len(twice.shared[names.RULE_PORTS]) == 2 * len(before.shared[names.RULE_PORTS])


def test_source_and_destination_values_have_sets_of_their_own() -> None:
    side = Side(ports=(PortRange(80, 80),), not_ports=(PortRange(80, 80),))
    content = rendered(Rule("Allow", protocol=TCP, source=side, destination=side))
    assert not content.sets
    assert len({key[:16] for key in content.shared[names.RULE_PORTS]}) == 4


NO_IPV6 = {(set_id, 6): policy.Form.ABSENT for set_id in ("s:a", "n:a")}


@pytest.mark.parametrize(
    ("side", "families"),
    [
        (Side(sets=("s:a",)), ["ipv4"]),
        (Side(sets=("s:b", "s:a")), ["ipv4"]),
        (Side(named_ports=("n:a",)), ["ipv4"]),
        (Side(named_ports=("n:a", "n:b")), ["ipv4", "ipv4", "ipv6"]),
        (Side(named_ports=("n:a",), ports=(PortRange(1, 1),)), ["ipv4", "ipv4", "ipv6"]),
        (Side(not_sets=("s:a",)), ["ipv4", "ipv6"]),
        (Side(not_named_ports=("n:a",)), ["ipv4", "ipv6"]),
    ],
)
def test_a_set_that_is_absent_in_a_family_matches_nothing_there(
    side: Side, families: list[str]
) -> None:
    rule = Rule("Allow", protocol=TCP, destination=side)
    content = policy.policy_chain(
        WEB, Policy(ingress=(rule,)), "ingress", SETTINGS, set_forms=NO_IPV6
    )
    assert [text.split()[2] for text in texts(content)] == families
    absent = {names.net_set("s:a", 6, wide=False), names.port_set("n:a", 6)}
    assert not any(name in text for name in absent for text in texts(content))


def test_an_unknown_policy_drops() -> None:
    assert texts(policy.stand_in(WEB, "ingress", SETTINGS)) == ["drop"]


# Lists.


def listed(policies: PolicyList) -> list[str]:
    text = "\n".join(texts(lists.list_chain(policies, "ingress", SETTINGS)))
    for one in (WEB, ADMIN, PROFILE):
        text = text.replace(names.policy_chain(one, "ingress"), one.name)
    return text.splitlines()


def test_the_chain_of_a_list() -> None:
    first = TierPolicies("security", "Deny", (ADMIN, WEB))
    second = TierPolicies("default", "Pass", (WEB,))
    assert listed(PolicyList((first, second), (PROFILE,))) == [
        "meta mark set meta mark & 0xfffeffff",
        "jump admin",
        "meta mark & 0x00010000 == 0x00000000 jump web",
        "meta mark & 0x00010000 == 0x00000000 drop",
        "meta mark set meta mark & 0xfffeffff",
        "jump web",
        "jump default",
        "drop",
    ]


def test_a_list_of_nothing_drops() -> None:
    assert listed(PolicyList()) == ["drop"]


def test_equal_lists_share_a_chain_and_others_do_not() -> None:
    tier = TierPolicies("default", "Deny", (WEB, ADMIN))
    other = TierPolicies("default", "Deny", (ADMIN, WEB))
    identities = {
        names.list_id(one)
        for one in (
            PolicyList((tier,)),
            PolicyList((TierPolicies("default", "Deny", (WEB, ADMIN)),)),
            PolicyList((other,)),
            PolicyList((tier, tier)),
            PolicyList((tier,), (PROFILE,)),
            PolicyList(),
        )
    }
    assert len(identities) == 5


def test_policies_of_a_list_are_named_once() -> None:
    tier = TierPolicies("default", "Deny", (WEB, ADMIN))
    assert lists.policies_of(PolicyList((tier,), (PROFILE, PROFILE))) == (WEB, ADMIN, PROFILE)


# Endpoints.


def test_an_endpoint_is_data_only() -> None:
    value = Endpoint(
        "cali1", (parse_address("10.0.0.1"), parse_address("fd00::1")), "02:00:00:00:00:01"
    )
    found = endpoint.endpoint_elements(value, SETTINGS)
    assert [element.set_name for element in found] == [
        "egress-lists", "ingress-lists", "sources4", "sources6", "link-local-limits", "link-local",
    ]  # fmt: skip
    own = parse_address("fe80::ff:fe00:1").packed
    assert found[-1].key == b"cali1".ljust(16, b"\0") + own
    assert all(isinstance(element.data, bytes) for element in found)
    without_ipv6 = endpoint.endpoint_elements(value, Settings(host="h1", ipv6=False))
    assert [e.set_name for e in without_ipv6][2:] == ["sources4"]


def test_arp_asks_for_the_mac_where_it_is_known() -> None:
    value = Endpoint(
        "cali1", (parse_address("10.0.0.1"), parse_address("fd00::1")), "02:00:00:00:00:01"
    )
    (known,) = endpoint.arp_elements(value)
    assert known.set_name == "senders"
    assert known.key == b"cali1".ljust(16, b"\0") + bytes((10, 0, 0, 1)) + b"\x02\0\0\0\0\x01\0\0"
    (any_mac,) = endpoint.arp_elements(Endpoint("cali1", (parse_address("10.0.0.1"),)))
    assert any_mac.set_name == "senders-any-mac"


# The fixed part.


def static_chain(name: str, settings: Settings = SETTINGS) -> list[str]:
    chain = static.inet_table(settings).chains[name]
    return [rule_text(rule).replace("counter packets 0 bytes 0 ", "") for rule in chain.rules]


def test_both_halves_of_forwarding_begin_alike() -> None:
    half = ["ct state established accept", "ct state related jump related-errors"]
    assert static_chain("related-errors") == [
        "meta l4proto icmp accept",
        "meta l4proto ipv6-icmp accept",
    ]
    assert static_chain("forward-from") == [*half, 'iifname "cali*" goto from-workload']
    assert static_chain("forward-to") == [*half, 'oifname "cali*" goto to-workload']


@pytest.mark.parametrize(
    "chain",
    [
        "from-workload",
        "from-workload-udp",
        "to-workload",
        "workload-source",
        "link-local-source",
        "link-local-neighbour",
    ],
)
def test_every_way_of_a_workload_ends_in_a_drop(chain: str) -> None:
    for settings in (SETTINGS, Settings(host="h1", ipv6=False)):
        assert static_chain(chain, settings)[-1] == "drop"
        assert static_chain("workload-input", settings)[-1] == "goto from-workload"


@pytest.mark.parametrize(
    "settings", [SETTINGS, Settings(host="h1", other_sources=True)], ids=["own", "others"]
)
def test_loopback_is_nobodys_source_and_no_destination(settings: Settings) -> None:
    """What comes from elsewhere is asked behind the jump of what comes from workloads."""
    assert static_chain("raw-prerouting", settings) == [
        "meta mark set meta mark & 0x0000ffff",
        'iifname "cali*" goto workload-source',
        'meta nfproto ipv4 ip saddr 127 iifname != "lo" drop',
        'meta nfproto ipv4 ip daddr 127 iifname != "lo" drop',
        'meta nfproto ipv6 ip6 saddr ::1 iifname != "lo" drop',
        'meta nfproto ipv6 ip6 daddr ::1 iifname != "lo" drop',
    ]
    asked = static_chain("workload-source", settings)
    assert asked[:3] == [
        "meta nfproto ipv4 ip daddr 127 drop",
        "meta nfproto ipv4 iifname . ip saddr @sources4 accept",
        "meta nfproto ipv6 ip6 daddr ::1 drop",
    ]
    if settings.other_sources:
        assert asked[-3:] == [
            "meta nfproto ipv4 ip saddr 127 drop",
            "meta nfproto ipv6 ip6 saddr ::1 drop",
            "goto other-source",
        ]


def test_an_address_of_loopback_is_never_a_source() -> None:
    networks = tuple(map(parse_network, ("127.0.0.1/32", "10.65.0.1/32", "::1/128", "fd65::1/128")))
    found = endpoint.endpoint_elements(Endpoint("cali1", networks), SETTINGS)
    sources = [one for one in found if one.set_name in ("sources4", "sources6")]
    assert {one.set_name: one.key[16:] for one in sources} == {
        "sources4": bytes((10, 65, 0, 1)),
        "sources6": bytes.fromhex("fd65" + "00" * 13 + "01"),
    }
    assert len(sources) == 2


def test_tcp_is_not_asked_what_it_is_not() -> None:
    asked = static_chain("from-workload")
    assert asked[1] == "meta l4proto tcp iifname map @egress-lists vmap @egress-chains"
    assert asked[-2] == "iifname map @egress-lists vmap @egress-chains"
    assert static_chain("from-workload-udp")[-2] == asked[-2]


@pytest.mark.parametrize(
    ("action", "last"),
    [
        ("Drop", "drop"),
        ("Accept", "meta mark set meta mark & 0xfffdffff ^ 0x00020000 accept"),
        ("Return", "meta mark set meta mark & 0xfffdffff return"),
    ],
)
def test_the_endpoint_to_host_action(action: str, last: str) -> None:
    settings = Settings(host="h1", endpoint_to_host_action=action)  # type: ignore[arg-type]
    assert static_chain("workload-to-host", settings)[-1] == last


def test_names_fit_the_kernel() -> None:
    everything = [static.inet_table(SETTINGS), static.arp_table(SETTINGS)]
    side = Side(networks=net("10.0.0.0/8"), ports=(PortRange(1, 1),))
    everything.append(rendered(Rule("Allow", protocol=TCP, source=side)))
    everything.append(lists.list_chain(PolicyList(), "egress", SETTINGS))
    found = [name for content in everything for name in (*content.chains, *content.sets)]
    found += [names.net_set("x" * 500, 6, wide=True), names.port_set("y\n", 4)]
    assert max(map(len, found)) <= 31
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in found)


def test_the_mark_is_the_lowest_bit_of_the_mask() -> None:
    assert Settings(host="h1", mark_mask=0xFF00).mark_pass == 0x100
    assert SETTINGS.mark_pass == 0x10000


def test_metadata_leads_to_this_host_or_to_another() -> None:
    here = Settings(host="h1", metadata=MetadataServer(None, 8775))
    assert static_chain("metadata-prerouting", here) == [
        'iifname "cali*" meta nfproto ipv4 ip daddr 169.254.169.254/32 meta l4proto tcp '
        "th dport 80 redirect to :8775"
    ]
    let_in = [line for line in static_chain("workload-input", here) if "8775" in line]
    assert len(let_in) == 1
    assert "ct status" in let_in[0], "only what has been translated"
    there = Settings(host="h1", metadata=MetadataServer(parse_address("10.0.0.9"), 8775))
    assert not [line for line in static_chain("workload-input", there) if "8775" in line]
    assert len(static_chain("metadata-prerouting", there)) == 1
    names = static.inet_table(SETTINGS).chains
    assert "metadata-prerouting" not in names, "nobody pays for what nobody wants"
