"""What a rule is converted to: selectors, ports, protocols, and what is refused."""

import base64
import hashlib

import pytest
from tests.graph.resources import allow, deny
from tests.graph.states import to

from tortie.calc.rule_scanner import ServiceName, SetSpec, named_port_set_id, scan_rules
from tortie.desired.policy import (
    SCTP,
    TCP,
    UDP,
    ICMPMatch,
    IPSetType,
    PortRange,
    Rule,
    Side,
)
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model import policy as model
from tortie.selector.normal import canonical
from tortie.selector.syntax import parse

NS = "projectcalico.org/namespace"
SA = "projectcalico.org/serviceaccount"


def scan_one(rule: model.Rule, namespace: str = "") -> tuple[Rule, dict[str, SetSpec]]:
    scanned = scan_rules((rule,), namespace)
    [converted] = scanned.rules
    return converted, dict(scanned.sets)


ACCOUNTS = model.ServiceAccountMatch

SELECTED = [
    # entity, in a global policy, in a policy of namespace n
    (to(selector="a == 'b'"), 'a == "b"', f'({NS} == "n" && a == "b")'),
    (to(selector="all()"), "all()", f'{NS} == "n"'),
    (
        to(selector="a == 'b' || c == 'd'"),
        '(a == "b" || c == "d")',
        f'({NS} == "n" && (a == "b" || c == "d"))',
    ),
    (to(namespace_selector="all()"), f"has({NS})", f"has({NS})"),
    (to(namespace_selector="global()"), f"!has({NS})", f"!has({NS})"),
    (
        to(namespace_selector="x == 'y'", selector="a == 'b'"),
        f'((has({NS}) && pcns.x == "y") && a == "b")',
        f'((has({NS}) && pcns.x == "y") && a == "b")',
    ),
    (
        to(namespace_selector="!has(x)"),
        f"(has({NS}) && !has(pcns.x))",
        f"(has({NS}) && !has(pcns.x))",
    ),
    (
        to(service_accounts=ACCOUNTS(names=("t", "s"))),
        f'{SA} in {{"s", "t"}}',
        f'({NS} == "n" && {SA} in {{"s", "t"}})',
    ),
    (
        to(service_accounts=ACCOUNTS(names=("s",), selector="x == 'y'"), selector="has(a)"),
        f'(pcsa.x == "y" && {SA} in {{"s"}} && has(a))',
        f'({NS} == "n" && (pcsa.x == "y" && {SA} in {{"s"}} && has(a)))',
    ),
    (to(not_selector="a == 'b'"), None, f'{NS} == "n"'),
    (to(nets=("10.0.0.0/8",)), None, None),
    (to(service_accounts=ACCOUNTS()), None, None),
    (to(), None, None),
]


@pytest.mark.parametrize("namespace", ["", "n"])
@pytest.mark.parametrize(("entity", "globally", "namespaced"), SELECTED)
def test_what_a_side_selects(
    entity: model.EntityRule, globally: str | None, namespaced: str | None, namespace: str
) -> None:
    expected = namespaced if namespace else globally
    for rule, sets in (
        scan_one(allow(entity), namespace),
        scan_one(allow(model.EntityRule(), entity), namespace),
    ):
        ids = rule.source.sets + rule.destination.sets
        texts = [canonical(sets[i].selector) for i in ids if sets[i].selector]  # type: ignore[arg-type]
        assert texts == ([] if expected is None else [expected])


@pytest.mark.parametrize("namespace", ["", "n"])
def test_not_selector_is_not_limited_to_a_namespace(namespace: str) -> None:
    rule, sets = scan_one(deny(to(not_selector="a == 'b'")), namespace)
    [excluded] = rule.source.not_sets
    assert sets[excluded].selector == parse("a == 'b'")


def test_equal_selectors_share_a_set() -> None:
    rules = (allow(to(selector="a=='b'&&has(c)")), deny(to(selector='(a == "b") && has(c)')))
    assert len(scan_rules(rules, "").sets) == 1


def test_the_id_of_a_named_port_is_calicos() -> None:
    def unique(prefix: str, content: str) -> str:
        digest = hashlib.sha224(f"{prefix}:{content}".encode()).digest()
        return f"{prefix}:{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    selector_id = unique("s", 'a == "b"')
    for number, text in ((TCP, "tcp"), (UDP, "udp"), (SCTP, "sctp")):
        expected = unique("n", f"{selector_id},{text},http")
        assert named_port_set_id(parse("a == 'b'"), number, "http") == expected


def test_ports_by_number_range_and_name() -> None:
    ports = (80, "8000:8100", "http", 80, "443", "http", "0:65535")
    rule, sets = scan_one(allow(to(), to(ports=ports), protocol="UDP"))
    destination = rule.destination
    assert destination.ports == (
        PortRange(80, 80),
        PortRange(8000, 8100),
        PortRange(443, 443),
        PortRange(0, 65535),
    )
    [named] = destination.named_ports
    assert sets == {named: SetSpec(IPSetType.ADDRESS_PORT, parse("all()"), UDP, "http")}


def test_a_named_port_without_a_protocol_is_tcp() -> None:
    _, sets = scan_one(allow(to(), to(ports=("http",))))
    assert [spec.protocol for spec in sets.values()] == [TCP]


def test_a_selector_beside_named_ports_only_needs_no_set_of_its_own() -> None:
    selected = {"selector": "a == 'b'"}
    named, _ = scan_one(allow(to(), to(ports=("http",), **selected), protocol="TCP"))
    mixed, _ = scan_one(allow(to(), to(ports=("http", 80), **selected), protocol="TCP"))
    negated, _ = scan_one(allow(to(), to(not_ports=("http",), **selected), protocol="TCP"))
    assert [len(rule.destination.sets) for rule in (named, mixed, negated)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("protocol", "number"),
    [("TCP", 6), ("udp", 17), ("ICMPv6", 58), ("UDPLite", 136), ("SCTP", 132), (1, 1), ("89", 89)],
)
def test_protocols(protocol: int | str, number: int) -> None:
    assert scan_one(allow(protocol=protocol))[0].protocol == number
    assert scan_one(allow(not_protocol=protocol))[0].not_protocol == number


def test_networks_lose_host_bits_and_duplicates() -> None:
    rule, _ = scan_one(allow(to(nets=("10.1.2.3/8", "10.0.0.0/8"), not_nets=("10.0.0.1",))))
    assert rule.source == Side(
        networks=(parse_network("10.0.0.0/8"),), not_networks=(parse_network("10.0.0.1/32"),)
    )


def test_the_rest_is_carried_over() -> None:
    rule, _ = scan_one(
        model.Rule(
            action="Log",
            ip_version=6,
            protocol="ICMPv6",
            icmp=model.ICMP(type=1, code=2),
            not_icmp=model.ICMP(type=3),
            metadata=model.RuleMetadata(annotations={"b": "1", "a": "2"}),
        )
    )
    assert rule == Rule(
        action="Log",
        family=6,
        protocol=58,
        icmp=ICMPMatch(1, 2),
        not_icmp=ICMPMatch(3, None),
        annotations=(("a", "2"), ("b", "1")),
    )


@pytest.mark.parametrize(
    "entity",
    [
        to(selector="a = 'b'"),
        to(selector="global()"),
        to(not_selector="a == "),
        to(not_selector="!global()"),
        to(namespace_selector="global() || has(x)"),
        to(service_accounts=ACCOUNTS(selector="global()")),
        to(service_accounts=ACCOUNTS(names=("""a' , "b""",))),
        to(nets=("10.0.0.0/33",)),
        to(not_nets=("ten",)),
        to(ports=("1:",)),
        to(ports=(":1",)),
        to(ports=("2:1",)),
        to(not_ports=(65536,)),
        to(ports=("",)),
        to(ports=("a:b",)),
        to(ports=(-1,)),
        to(not_ports=("-1",)),
        to(not_ports=("9" * 12,)),
        to(ports=(f"1:{'9' * 5000}",)),
    ],
)
def test_what_does_not_parse_is_refused_and_says_where(entity: model.EntityRule) -> None:
    with pytest.raises(InvalidInput, match="rule 2: "):
        scan_rules((allow(), allow(entity)), "n")
    with pytest.raises(InvalidInput, match="rule 1: "):
        scan_rules((allow(model.EntityRule(), entity),), "")


@pytest.mark.parametrize("protocol", ["TPC", "", "256", 256, -1, "6" * 5000, "٦"])
def test_unknown_protocols_are_refused(protocol: int | str) -> None:
    with pytest.raises(InvalidInput):
        scan_rules((allow(protocol=protocol),), "")


def test_http_leaves_no_set_behind() -> None:
    rule = allow(to(selector="a == 'b'"), http=model.HTTPMatch(methods=("GET",)))
    scanned = scan_rules((rule,), "")
    assert (scanned.rules, dict(scanned.sets)) == ((), {})
    assert len(scanned.problems) == 1


def test_a_destinations_service_is_addresses_and_ports() -> None:
    rule = allow(to(), to(services=model.ServiceMatch(name="s")))
    scanned = scan_rules((rule,), "n")
    [converted] = scanned.rules
    [set_id] = converted.destination.named_ports
    assert set_id.startswith("svc:")
    assert converted.destination == Side(named_ports=(set_id,))
    service = ServiceName("n", "s")
    assert scanned.sets[set_id] == SetSpec(IPSetType.ADDRESS_PORT, None, service=service)
    assert not scanned.problems


def test_a_sources_service_is_addresses_and_leaves_ports_alone() -> None:
    service = model.ServiceMatch(name="s", namespace="other")
    [converted] = scan_rules((allow(to(services=service, ports=(80,))),), "n").rules
    [set_id] = converted.source.sets
    assert set_id.startswith("svcnoport:")
    assert converted.source == Side(sets=(set_id,), ports=(PortRange(80, 80),))


def test_ports_never_widen_a_destinations_service() -> None:
    side = to(services=model.ServiceMatch(name="s"), ports=(80,))
    with pytest.raises(InvalidInput, match="services"):
        scan_rules((allow(to(), side),), "n")
