"""Named datastore states, seen from host `h1`, and the desired state that each must give."""

from typing import NamedTuple

from tests.graph.resources import (
    Entry,
    State,
    affinity,
    allow,
    deny,
    endpoint_slice,
    host_endpoint,
    machine,
    migration,
    network_set,
    node,
    policy,
    pool,
    profile,
    service_networks,
    staged,
    tier,
    workload,
)

from tortie.calc.rule_scanner import ServiceName, named_port_set_id, service_set_id
from tortie.desired.policy import TCP, UDP, IPSetType
from tortie.model.policy import (
    ICMP,
    EntityRule,
    HTTPMatch,
    Rule,
    RuleMetadata,
    ServiceAccountMatch,
    ServiceMatch,
)
from tortie.selector.normal import selector_id
from tortie.selector.syntax import parse

HOST = "h1"
_NS = "projectcalico.org/namespace"


class Named(NamedTuple):
    """One state and what it means."""

    state: State
    expected: str
    """As `describe` tells it; blank lines and indentation do not count."""
    sets: dict[str, str] = {}
    """Names for the ids of sets in `expected`."""


def state(*entries: Entry) -> State:
    return dict(entries)


def net(name: str, selector: str) -> dict[str, str]:
    return {selector_id(selector): name}


def port(name: str, selector: str, protocol: int, port_name: str) -> dict[str, str]:
    return {named_port_set_id(parse(selector), protocol, port_name): name}


def served(name: str, namespace: str, service: str, set_type: IPSetType) -> dict[str, str]:
    return {service_set_id(ServiceName(namespace, service), set_type): name}


def to(**entity: object) -> EntityRule:
    return EntityRule(**entity)  # type: ignore[arg-type]


DEFAULT_TIER = tier("default", 1000000)
WEB = workload("shop/web", "h1", "10.0.0.1/32", labels={"app": "web"})
DB = workload("shop/db", "h1", "10.0.0.2/32", labels={"app": "db"})
FAR = workload("shop/far", "h2", "10.0.1.1/32", labels={"app": "web"})
STRANGER = workload("other/stranger", "h2", "10.0.1.2/32", labels={"app": "web"})
SHOP = profile("kns.shop", {"pcns.team": "sales"}, ingress=[allow()], egress=[allow()])
OTHER = profile("kns.other", {"pcns.team": "ops"}, ingress=[deny()], egress=[allow()])

CLOSED = "in Deny; out Deny"
OPEN = "in Allow; out Allow"

STATES: dict[str, Named] = {
    "empty": Named(state(), ""),
    "elsewhere only": Named(
        state(DEFAULT_TIER, FAR, STRANGER, SHOP, policy("shop/p", selector="all()")), ""
    ),
    "a profile that is missing denies": Named(
        state(WEB),
        f"""
        policy profile kns.shop: {CLOSED}
        endpoint shop/web on cali-web 10.0.0.1: in kns.shop; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "profiles in the endpoint's order": Named(
        state(
            workload(
                "shop/web", "h1", "10.0.0.1/32", profiles=("z", "projectcalico-default-allow", "a")
            ),
            profile("a", ingress=[deny(protocol="TCP")]),
            profile("z", egress=[allow(to(), to(nets=("10.9.8.7/8", "fd00::/8")))]),
        ),
        f"""
        policy profile a: in Deny proto:6
        policy profile z: out Allow to:10.0.0.0/8|fd00::/8
        policy profile projectcalico-default-allow: {OPEN}
        endpoint shop/web on cali-web 10.0.0.1:
            in z → projectcalico-default-allow → a; out z → projectcalico-default-allow → a
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "an endpoint without anything": Named(
        state(workload("shop/web", "h1", "10.0.0.1/32", profiles=())),
        """
        endpoint shop/web on cali-web 10.0.0.1: in nothing; out nothing
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "labels do not choose a namespace": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            workload(
                "other/liar",
                "h2",
                "10.0.1.3/32",
                labels={_NS: "shop", "pcns.team": "sales", "pcsa.trust": "high"},
            ),
            network_set(
                "other/lie", "0.0.0.0/0", labels={_NS: "shop", "pcns.team": "sales", "app": "x"}
            ),
            network_set("lie", "::/0", labels={_NS: "shop", "app": "x"}),
            profile("kns.other", {_NS: "shop"}),
            host_endpoint("lie", "1.1.1.1", labels={_NS: "shop"}),
            policy(
                "shop/p",
                ingress=(
                    allow(to(selector="all()")),
                    allow(to(namespace_selector="team == 'sales'")),
                    allow(to(service_accounts=ServiceAccountMatch(selector="has(trust)"))),
                ),
            ),
        ),
        f"""
        set own: 10.0.0.1
        set sales: 10.0.0.1
        set trusted:
        policy profile kns.shop: {OPEN}
        policy shop/p: in Allow from-in:own, Allow from-in:sales, Allow from-in:trusted
        endpoint shop/web on cali-web 10.0.0.1: in default(shop/p)Deny; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        """,
        {
            **net("own", f"{_NS} == 'shop'"),
            **net("sales", f"has({_NS}) && pcns.team == 'sales'"),
            **net("trusted", f"{_NS} == 'shop' && has(pcsa.trust)"),
        },
    ),
    "a policy reaches its own namespace only": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            DB,
            FAR,
            STRANGER,
            policy(
                "shop/db",
                tier="default",
                selector="app == 'db'",
                ingress=(allow(to(selector="app == 'web'"), protocol="TCP"),),
            ),
            policy("other/all", tier="default", selector="all()"),
        ),
        f"""
        set web: 10.0.0.1 10.0.1.1
        policy profile kns.shop: {OPEN}
        policy shop/db: in Allow proto:6 from-in:web
        endpoint shop/db on cali-db 10.0.0.2: in default(shop/db)Deny; out kns.shop
        endpoint shop/web on cali-web 10.0.0.1: in kns.shop; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        route 10.0.0.2 to cali-db borrowed
        """,
        net("web", f"({_NS} == 'shop' && app == 'web')"),
    ),
    "tiers, orders and passing": Named(
        state(
            tier("last", None, "Pass"),
            tier("b", 10.0, "Deny"),
            tier("a", 10.0, "Pass"),
            DEFAULT_TIER,
            SHOP,
            WEB,
            policy("late", tier="a", selector="all()", types=("Ingress",), egress=(allow(),)),
            policy("early", tier="a", order=-1.0, selector="all()", types=("Ingress", "Egress")),
            policy("x", tier="b", order=5.0, types=("Ingress",)),
            policy("shop/x", tier="b", order=5.0, types=("Ingress",)),
            policy("second", tier="b", order=6.0, types=("Ingress",)),
            policy("end", tier="last", types=("Egress",), egress=(deny(),), ingress=(allow(),)),
        ),
        f"""
        policy profile kns.shop: {OPEN}
        policy late:
        policy early:
        policy x:
        policy shop/x:
        policy second:
        policy end: out Deny
        endpoint shop/web on cali-web 10.0.0.1:
            in a(early late)Pass → b(x shop/x second)Deny;
            out a(early)Pass → last(end)Pass → kns.shop
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "a pass rule of the last tier leads to profiles": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            policy("p", types=("Ingress", "Egress"), ingress=(Rule(action="Pass"),)),
        ),
        f"""
        policy profile kns.shop: {OPEN}
        policy p: in Pass
        endpoint shop/web on cali-web 10.0.0.1:
            in default(p)Deny → kns.shop; out default(p)Deny
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "a missing tier is last and denies": Named(
        state(
            tier("default", None, "Pass"),
            SHOP,
            WEB,
            policy("p", tier="absent", types=("Ingress",)),
            policy("q", types=("Ingress",)),
        ),
        f"""
        policy profile kns.shop: {OPEN}
        policy p:
        policy q:
        endpoint shop/web on cali-web 10.0.0.1:
            in default(q)Pass → absent(p)Deny; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "network sets, host endpoints and namespaces": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            OTHER,
            WEB,
            STRANGER,
            host_endpoint("eth0", "192.168.0.1", labels={"kind": "peer"}),
            network_set("outside", "1.2.3.4/8", "9.9.9.9", labels={"kind": "peer"}),
            network_set("shop/own", "2.0.0.0/8", "1.0.0.0/8", labels={"kind": "peer"}),
            network_set("other/theirs", "3.0.0.0/8", labels={"kind": "peer"}),
            policy(
                "shop/p",
                selector="app == 'web'",
                ingress=(
                    allow(to(selector="kind == 'peer'")),
                    allow(to(selector="kind == 'peer'", namespace_selector="team == 'ops'")),
                    allow(to(selector="kind == 'peer'", namespace_selector="global()")),
                    allow(to(selector="kind == 'peer'", namespace_selector="all()")),
                    allow(to(namespace_selector="!has(team) || team != 'sales'")),
                    deny(to(not_selector="kind == 'peer'")),
                ),
            ),
            policy("g", selector="app == 'web'", ingress=(allow(to(selector="kind == 'peer'")),)),
        ),
        f"""
        set own: 1.0.0.0/8 2.0.0.0/8
        set ops: 3.0.0.0/8
        set global: 1.0.0.0/8 192.168.0.1 9.9.9.9
        set everyone: 1.0.0.0/8 2.0.0.0/8 3.0.0.0/8
        set not-sales: 10.0.1.2 3.0.0.0/8
        set shop: 1.0.0.0/8 10.0.0.1 2.0.0.0/8
        set peers: 1.0.0.0/8 192.168.0.1 2.0.0.0/8 3.0.0.0/8 9.9.9.9
        policy profile kns.shop: {OPEN}
        policy shop/p: in Allow from-in:own, Allow from-in:ops, Allow from-in:global,
            Allow from-in:everyone, Allow from-in:not-sales, Deny from-in:shop from-not-in:peers
        policy g: in Allow from-in:peers
        endpoint shop/web on cali-web 10.0.0.1: in default(g shop/p)Deny; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        """,
        {
            **net("own", f"({_NS} == 'shop' && kind == 'peer')"),
            **net("ops", f"(has({_NS}) && pcns.team == 'ops') && kind == 'peer'"),
            **net("global", f"!has({_NS}) && kind == 'peer'"),
            **net("everyone", f"has({_NS}) && kind == 'peer'"),
            **net("not-sales", f"has({_NS}) && (!has(pcns.team) || pcns.team != 'sales')"),
            **net("shop", f"{_NS} == 'shop'"),
            **net("peers", "kind == 'peer'"),
        },
    ),
    "policies select by namespace and account": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            profile("ksa.shop.till", {"pcsa.trust": "high"}, ingress=[allow()]),
            WEB,
            workload(
                "shop/db",
                "h1",
                "10.0.0.2/32",
                labels={"app": "db"},
                account="till",
                profiles=("kns.shop", "ksa.shop.till"),
            ),
            policy("by-namespace", namespace_selector="team == 'sales'", types=("Egress",)),
            policy("by-other-namespace", namespace_selector="team == 'ops'", types=("Egress",)),
            policy("outside", namespace_selector="global()", types=("Egress",)),
            policy("by-account", service_account_selector="trust == 'high'", types=("Egress",)),
            policy(
                "shop/by-account",
                selector="app == 'db'",
                types=("Egress",),
                service_account_selector="trust == 'high'",
                egress=(
                    allow(to(), to(service_accounts=ServiceAccountMatch(names=("till", "x")))),
                    allow(to(), to(service_accounts=ServiceAccountMatch(selector="has(trust)"))),
                ),
            ),
        ),
        f"""
        set named: 10.0.0.2
        set trusted: 10.0.0.2
        policy profile kns.shop: {OPEN}
        policy profile ksa.shop.till: in Allow
        policy by-namespace:
        policy by-account:
        policy shop/by-account: out Allow to-in:named, Allow to-in:trusted
        endpoint shop/web on cali-web 10.0.0.1: in kns.shop; out default(by-namespace)Deny
        endpoint shop/db on cali-db 10.0.0.2: in kns.shop → ksa.shop.till;
            out default(by-account by-namespace shop/by-account)Deny
        route 10.0.0.1 to cali-web borrowed
        route 10.0.0.2 to cali-db borrowed
        """,
        {
            **net(
                "named", f"{_NS} == 'shop' && projectcalico.org/serviceaccount in {{'x','till'}}"
            ),
            **net("trusted", f"{_NS} == 'shop' && has(pcsa.trust)"),
        },
    ),
    "ports by name and number": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            workload(
                "shop/web",
                "h1",
                "10.0.0.1/32",
                "fd00::1/128",
                labels={"app": "web"},
                ports=[("http", "TCP", 80), ("http", "UDP", 81), ("admin", "TCP", 9)],
            ),
            workload("shop/far", "h2", "10.0.1.1/32", ports=[("http", "TCP", 8080)]),
            host_endpoint("eth0", "192.168.0.1", labels={}, ports=[("http", "TCP", 8000)]),
            policy(
                "shop/p",
                selector="app == 'web'",
                types=("Egress",),
                egress=(
                    allow(to(), to(ports=(53, "8000:8100", "http")), protocol="TCP"),
                    allow(to(), to(selector="app == 'web'", ports=("http",)), protocol="UDP"),
                    allow(to(), to(not_ports=("admin", 22)), protocol=6),
                    deny(to(selector="app == 'web'", ports=(1, "admin")), protocol="tcp"),
                ),
            ),
        ),
        f"""
        set all-http: 10.0.0.1:6:80 10.0.1.1:6:8080 192.168.0.1:6:8000 fd00::1:6:80
        set web-http: 10.0.0.1:17:81 fd00::1:17:81
        set all-admin: 10.0.0.1:6:9 fd00::1:6:9
        set web-admin: 10.0.0.1:6:9 fd00::1:6:9
        set web: 10.0.0.1 fd00::1
        policy profile kns.shop: {OPEN}
        policy shop/p: out Allow proto:6 to-port:53|8000-8100|all-http,
            Allow proto:17 to-port:web-http, Allow proto:6 to-not-port:22-22|all-admin,
            Deny proto:6 from-in:web from-port:1|web-admin
        endpoint shop/web on cali-web 10.0.0.1 fd00::1: in kns.shop; out default(shop/p)Deny
        route 10.0.0.1 to cali-web borrowed
        route fd00::1 to cali-web borrowed
        """,
        {
            **port("all-http", "all()", TCP, "http"),
            **port("web-http", f"{_NS} == 'shop' && app == 'web'", UDP, "http"),
            **port("all-admin", "all()", TCP, "admin"),
            **port("web-admin", f"{_NS} == 'shop' && app == 'web'", TCP, "admin"),
            **net("web", f"{_NS} == 'shop' && app == 'web'"),
        },
    ),
    "every other kind of match": Named(
        state(
            DEFAULT_TIER,
            WEB,
            SHOP,
            policy(
                "p",
                types=("Ingress", "Egress"),
                ingress=(
                    Rule(action="Log", metadata=RuleMetadata(annotations={"why": "so"})),
                    deny(ip_version=4, protocol="ICMP", icmp=ICMP(type=8, code=0)),
                    deny(ip_version=6, protocol="ICMPv6", not_icmp=ICMP(type=128)),
                    deny(to(not_nets=("10.0.0.0/8",)), not_protocol="UDPLite"),
                ),
                egress=(allow(to(), to(nets=("::/0",), not_nets=("fd00::1",)), protocol="SCTP"),),
            ),
        ),
        f"""
        policy profile kns.shop: {OPEN}
        policy p: in Log {{why=so}}, Deny v4 proto:1 icmp:8/0, Deny v6 proto:58 not-icmp:128/None,
            Deny not-proto:136 from-not:10.0.0.0/8;
            out Allow proto:132 to:::/0 to-not:fd00::1
        endpoint shop/web on cali-web 10.0.0.1: in default(p)Deny; out default(p)Deny
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "what cannot be enforced never widens": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            policy(
                "p",
                types=("Ingress", "Egress"),
                ingress=(
                    allow(to(selector="has(x)"), http=HTTPMatch(methods=("GET",))),
                    deny(protocol="TCP", http=HTTPMatch(methods=("GET",))),
                ),
            ),
            policy("untracked", do_not_track=True, apply_on_forward=True, ingress=(allow(),)),
            policy("before-nat", pre_dnat=True, apply_on_forward=True, ingress=(allow(),)),
            policy("forwarded", apply_on_forward=True, types=("Ingress",)),
        ),
        f"""
        policy profile kns.shop: {OPEN}
        policy p: in Deny proto:6
        policy forwarded:
        endpoint shop/web on cali-web 10.0.0.1: in default(forwarded p)Deny; out default(p)Deny
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "services": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            endpoint_slice("shop/one", "db", "10.0.1.1", "fd00::1", ports=[("TCP", 5432)]),
            endpoint_slice(
                "shop/two", "db", "10.0.1.1", "10.0.1.2", ports=[("UDP", 9), ("TCP", 9)]
            ),
            endpoint_slice("shop/no-port", "db", "10.0.1.3", ports=[]),
            endpoint_slice("other/one", "db", "10.0.9.9"),
            endpoint_slice("other/two", "front", "10.0.2.1"),
            policy(
                "shop/p",
                types=("Ingress", "Egress"),
                ingress=(
                    allow(to(services=ServiceMatch(name="front", namespace="other"), ports=(9,))),
                    allow(to(services=ServiceMatch(name="front"))),
                ),
                egress=(allow(to(), to(services=ServiceMatch(name="db"))),),
            ),
        ),
        f"""
        set db: 10.0.1.1:17:9 10.0.1.1:6:5432 10.0.1.1:6:9 10.0.1.2:17:9 10.0.1.2:6:9
            fd00::1:6:5432
        set front: 10.0.2.1
        set missing:
        policy profile kns.shop: {OPEN}
        policy shop/p: in Allow from-in:front from-port:9, Allow from-in:missing;
            out Allow to-port:db
        endpoint shop/web on cali-web 10.0.0.1: in default(shop/p)Deny; out default(shop/p)Deny
        route 10.0.0.1 to cali-web borrowed
        """,
        served("front", "other", "front", IPSetType.NET)
        | served("missing", "shop", "front", IPSetType.NET)
        | served("db", "shop", "db", IPSetType.ADDRESS_PORT),
    ),
    "services that are served elsewhere now": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            endpoint_slice("shop/one", "db", "10.0.1.1", "10.0.1.9", ports=[("TCP", 5433)]),
            endpoint_slice("shop/two", "front", "10.0.1.2", ports=[("UDP", 9)]),
            endpoint_slice("other/two", "db", "10.0.2.1"),
            policy(
                "shop/p",
                types=("Egress",),
                egress=(
                    allow(to(), to(services=ServiceMatch(name="db"))),
                    allow(to(), to(services=ServiceMatch(name="front"))),
                ),
            ),
        ),
        f"""
        set db: 10.0.1.1:6:5433 10.0.1.9:6:5433
        set front: 10.0.1.2:17:9
        policy profile kns.shop: {OPEN}
        policy shop/p: out Allow to-port:db, Allow to-port:front
        endpoint shop/web on cali-web 10.0.0.1: in kns.shop; out default(shop/p)Deny
        route 10.0.0.1 to cali-web borrowed
        """,
        served("db", "shop", "db", IPSetType.ADDRESS_PORT)
        | served("front", "shop", "front", IPSetType.ADDRESS_PORT),
    ),
    "two claim one address, two one interface": Named(
        state(
            profile("kns.a", ingress=[allow()], egress=[allow()]),
            workload("a/first", "h1", "10.0.0.1/32", "10.0.0.9/32"),
            workload("a/second", "h1", "10.0.0.1/32", "10.0.0.2/32"),
            workload("a/third", "h1", "10.0.0.3/32", interface="cali-second"),
            workload("a/fourth", "h1", "10.0.0.4/32", interface=""),
        ),
        f"""
        policy profile kns.a: {OPEN}
        endpoint a/first on cali-first 10.0.0.1 10.0.0.9: in kns.a; out kns.a
        endpoint a/second on cali-second: in nothing; out nothing
        endpoint a/third on nowhere: in nothing; out nothing
        endpoint a/fourth on nowhere: in nothing; out nothing
        route 10.0.0.1 to cali-first borrowed
        route 10.0.0.9 to cali-first borrowed
        """,
    ),
    "the first of two claimants has gone": Named(
        state(
            profile("kns.a", ingress=[allow()], egress=[allow()]),
            workload("a/second", "h1", "10.0.0.1/32", "10.0.0.2/32"),
            workload("a/third", "h1", "10.0.0.3/32"),
        ),
        f"""
        policy profile kns.a: {OPEN}
        endpoint a/second on cali-second 10.0.0.1 10.0.0.2: in kns.a; out kns.a
        endpoint a/third on cali-third 10.0.0.3: in kns.a; out kns.a
        route 10.0.0.1 to cali-second borrowed
        route 10.0.0.2 to cali-second borrowed
        route 10.0.0.3 to cali-third borrowed
        """,
    ),
    "routes": Named(
        state(
            node("h1", "192.168.0.1/24", "fd01::1/64"),
            node("h2", "192.168.0.2/24"),
            node("h3", internal="192.168.0.3"),
            pool("v4", "10.0.0.0/16", nat_outgoing=True),
            pool("v6", "fd00::/48", disable_bgp_export=True, disabled=True),
            affinity("h1", "10.0.0.0/26"),
            affinity("h1", "fd00::/122"),
            affinity("h2", "10.0.1.0/26"),
            affinity("h2", "fd00::40/122"),
            affinity("h3", "10.0.3.0/26"),
            affinity("h4", "10.0.4.0/26"),
            affinity("h4", "10.0.5.0/26", "pending"),
            affinity("h4", "10.0.6.0/26", "pendingDeletion"),
            affinity("h2", "172.16.0.0/26"),
            affinity("h1", "172.16.1.0/26"),
            workload("a/own", "h1", "10.0.0.1/32", "fd00::1/128", profiles=()),
            workload("a/borrowed", "h1", "10.0.1.9/32", "10.0.9.9/32", profiles=()),
            workload("a/there", "h2", "10.0.1.1/32", "fd00::41/128", profiles=()),
            workload("a/lent", "h2", "10.0.0.7/32", profiles=()),
            workload("a/moved", "h3", "10.0.1.7/32", profiles=()),
            workload("a/nowhere", "", "10.0.1.8/32", profiles=()),
            workload("a/outside", "h3", "172.16.0.9/32", profiles=()),
        ),
        """
        pool 10.0.0.0/16 masquerade
        pool fd00::/48 unexported
        host h1 192.168.0.1 in 192.168.0.0/24 fd01::1 in fd01::/64
        host h2 192.168.0.2 in 192.168.0.0/24
        host h3 192.168.0.3
        endpoint a/own on cali-own 10.0.0.1 fd00::1: in nothing; out nothing
        endpoint a/borrowed on cali-borrowed 10.0.1.9 10.0.9.9: in nothing; out nothing
        route 10.0.0.0/26 here
        route fd00::/122 here
        route 172.16.1.0/26 here
        route 10.0.1.0/26 at h2 via 192.168.0.2
        route fd00::40/122 at h2 via ?
        route 10.0.3.0/26 at h3 via 192.168.0.3
        route 10.0.4.0/26 at h4 via ?
        route 10.0.0.1 to cali-own
        route fd00::1 to cali-own
        route 10.0.1.9 to cali-borrowed borrowed
        route 10.0.9.9 to cali-borrowed borrowed
        route 10.0.0.7 at h2 via 192.168.0.2
        route 10.0.1.7 at h3 via 192.168.0.3
        """,
    ),
    "routes in conflict": Named(
        state(
            node("h2", "192.168.0.2/24"),
            node("h0", "192.168.0.9/24"),
            pool("b", "10.0.0.0/16", nat_outgoing=True),
            pool("a", "10.0.0.0/16"),
            affinity("h1", "10.0.0.0/26"),
            affinity("h2", "10.0.0.0/26"),
            affinity("h0", "10.0.1.0/26"),
            affinity("h1", "10.0.1.0/26"),
            affinity("h1", "10.0.3.0/24"),
            affinity("h2", "10.0.3.0/26"),
            workload("a/inner", "h2", "10.0.3.1/32", profiles=()),
            affinity("h1", "10.0.2.1/32"),
            affinity("h1", "10.0.2.2/32"),
            workload("a/here", "h1", "10.0.0.1/32", "10.0.1.1/32", "10.0.2.1/32", profiles=()),
            workload("a/z", "h0", "10.0.0.1/32", "10.0.0.2/32", profiles=()),
            workload("a/y", "h2", "10.0.0.2/32", profiles=()),
        ),
        """
        pool 10.0.0.0/16
        host h0 192.168.0.9 in 192.168.0.0/24
        host h2 192.168.0.2 in 192.168.0.0/24
        endpoint a/here on cali-here 10.0.0.1 10.0.1.1 10.0.2.1: in nothing; out nothing
        route 10.0.0.0/26 here
        route 10.0.1.0/26 at h0 via 192.168.0.9
        route 10.0.0.1 to cali-here
        route 10.0.1.1 to cali-here borrowed
        route 10.0.2.1 to cali-here
        route 10.0.2.2 here
        route 10.0.3.0/24 here
        route 10.0.3.0/26 at h2 via 192.168.0.2
        route 10.0.0.2 at h2 via 192.168.0.2
        """,
    ),
    "machines on their way: policy on both hosts, a route on one": Named(
        state(
            node("h2", "192.168.0.2/24"),
            node("h3", "192.168.0.3/24"),
            pool("p", "10.0.0.0/16"),
            # From here; to here; elsewhere, from the later to the earlier name; and a lost one.
            machine("h1", "goes", "10.0.0.1/32"),
            machine("h2", "goes", "10.0.0.1/32"),
            migration("h2", "goes"),
            machine("h2", "comes", "10.0.0.2/32"),
            machine("h1", "comes", "10.0.0.2/32"),
            migration("h1", "comes"),
            machine("h3", "far", "10.0.0.3/32"),
            machine("h2", "far", "10.0.0.3/32"),
            migration("h2", "far"),
            machine("h2", "there", "10.0.0.4/32"),
            migration("h2", "there"),
            machine("h1", "arrived", "10.0.0.5/32"),
            migration("h1", "arrived"),
            migration("h1", "nobody"),
        ),
        """
        pool 10.0.0.0/16
        host h2 192.168.0.2 in 192.168.0.0/24
        host h3 192.168.0.3 in 192.168.0.0/24
        endpoint openstack/h1-openstack-arrived-port on tap-arrived 10.0.0.5:
            in nothing; out nothing
        endpoint openstack/h1-openstack-comes-port on tap-comes 10.0.0.2: in nothing; out nothing
        endpoint openstack/h1-openstack-goes-port on tap-goes 10.0.0.1: in nothing; out nothing
        route 10.0.0.1 to tap-goes borrowed
        route 10.0.0.2 at h2 via 192.168.0.2
        route 10.0.0.3 at h3 via 192.168.0.3
        route 10.0.0.4 at h2 via 192.168.0.2
        route 10.0.0.5 to tap-arrived borrowed
        """,
    ),
    "machines that have arrived": Named(
        state(
            node("h2", "192.168.0.2/24"),
            node("h3", "192.168.0.3/24"),
            pool("p", "10.0.0.0/16"),
            machine("h2", "goes", "10.0.0.1/32"),
            machine("h1", "comes", "10.0.0.2/32"),
            machine("h2", "far", "10.0.0.3/32"),
        ),
        """
        pool 10.0.0.0/16
        host h2 192.168.0.2 in 192.168.0.0/24
        host h3 192.168.0.3 in 192.168.0.0/24
        endpoint openstack/h1-openstack-comes-port on tap-comes 10.0.0.2: in nothing; out nothing
        route 10.0.0.1 at h2 via 192.168.0.2
        route 10.0.0.2 to tap-comes borrowed
        route 10.0.0.3 at h2 via 192.168.0.2
        """,
    ),
    "networks of services": Named(
        state(service_networks(["10.96.0.0/12", "fd96::/112"], ["192.0.2.0/28"], ["10.97.0.1/32"])),
        """
        services 10.96.0.0/12
        services 10.97.0.1/32
        services 192.0.2.0/28
        services fd96::/112
        """,
    ),
    "other networks of services": Named(
        state(
            service_networks(["10.96.0.0/12"], ["10.96.0.0/12"], ["198.51.100.0/24"]),
            service_networks(["10.112.0.0/12"], name="node.h1"),
        ),
        """
        services 10.96.0.0/12
        services 198.51.100.0/24
        """,
    ),
    "what does not parse is absent": Named(
        state(
            DEFAULT_TIER,
            WEB,
            profile("kns.shop", ingress=[allow(to(nets=("nonsense",)))]),
            workload("shop/db", "h1", "10.0.0.0/24"),
            policy("bad-selector", selector="app = 'web'"),
            policy("global-selector", selector="global()"),
            policy("bad-port", ingress=(allow(to(), to(ports=("1:0",)), protocol="TCP"),)),
            policy("bad-protocol", ingress=(allow(protocol="TPC"),)),
            policy("bad-match", ingress=(allow(to(namespace_selector="!global()")),)),
            policy("good", ingress=(allow(to(selector="all()")),)),
            network_set("s", "10.0.0.0/33", labels={}),
            host_endpoint("e", "x", labels={}),
            pool("p", "x"),
            node("h2", "x"),
            affinity("h1", "10.0.0.0/26"),
        ),
        f"""
        set all: 10.0.0.1
        policy profile kns.shop: {CLOSED}
        policy good: in Allow from-in:all
        endpoint shop/web on cali-web 10.0.0.1: in default(good)Deny; out kns.shop
        route 10.0.0.0/26 here
        route 10.0.0.1 to cali-web
        """,
        net("all", "all()"),
    ),
    "host endpoints here, in the places where policies act": Named(
        state(
            DEFAULT_TIER,
            tier("first", 1, "Pass"),
            profile("open", ingress=[allow()]),
            host_endpoint(
                "eth0",
                "192.168.0.1",
                labels={"role": "node"},
                host="h1",
                interface="eth0",
                profiles=("open", "open"),
            ),
            host_endpoint("by-address", "192.168.0.9", "fd01::9", labels={"x": "1"}, host="h1"),
            host_endpoint("all", labels={"role": "node"}, host="h1", interface="*"),
            host_endpoint("other", labels={"role": "node"}, host="h2", interface="eth0"),
            WEB,
            profile("kns.shop"),
            policy("normal", selector="role == 'node'", ingress=(allow(),), tier="first"),
            policy(
                "passing-through",
                selector="role == 'node'",
                types=("Ingress", "Egress"),
                apply_on_forward=True,
            ),
            policy(
                "raw",
                selector="all()",
                types=("Ingress", "Egress"),
                apply_on_forward=True,
                do_not_track=True,
            ),
            policy(
                "early",
                selector="has(role)",
                ingress=(deny(),),
                apply_on_forward=True,
                pre_dnat=True,
            ),
            policy("shop/none", selector="all()"),
        ),
        """
        policy profile kns.shop:
        policy profile open: in Allow
        policy normal: in Allow
        policy passing-through:
        policy raw:
        policy early: in Deny
        policy shop/none:
        endpoint shop/web on cali-web 10.0.0.1: in default(shop/none)Deny; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        host-endpoint eth0 on eth0:
            in first(normal)Pass → default(passing-through)Deny; out default(passing-through)Deny;
            forward-in default(passing-through)Deny; forward-out default(passing-through)Deny;
            untracked-in default(raw)Pass; untracked-out default(raw)Pass;
            pre-dnat default(early)Pass
        host-endpoint all on *:
            in first(normal)Pass → default(passing-through)Deny; out default(passing-through)Deny;
            forward-in default(passing-through)Deny; forward-out default(passing-through)Deny;
            untracked-in default(raw)Pass; untracked-out default(raw)Pass;
            pre-dnat default(early)Pass
        host-endpoint by-address on by 192.168.0.9 fd01::9:
            untracked-in default(raw)Pass; untracked-out default(raw)Pass
        """,
    ),
    "a host endpoint without policies": Named(
        state(
            host_endpoint(
                "eth0", labels={}, host="h1", interface="eth0", profiles=("missing", "missing")
            )
        ),
        f"""
        policy profile missing: {CLOSED}
        host-endpoint eth0 on eth0: in missing; out missing
        """,
    ),
    "staged policies are told and not enforced": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            DB,
            host_endpoint("eth0", labels={"role": "node"}, host="h1", interface="eth0"),
            policy("shop/kept", order=3, selector="app == 'web'", ingress=(allow(),)),
            policy("shop/changed", order=1, selector="app == 'web'", ingress=(allow(),)),
            policy("shop/dropped", order=2, selector="app == 'web'", ingress=(allow(),)),
            policy("shop/knp.default.k", order=5, selector="app == 'web'", ingress=(allow(),)),
            staged(
                "shop/changed",
                order=4,
                selector="all()",
                ingress=(deny(to(selector="app == 'web'")),),
            ),
            staged("shop/dropped", "Delete"),
            staged("shop/kept", "Ignore"),
            staged("g", "Learn", selector="all()", ingress=(allow(http=HTTPMatch()),)),
            staged(
                "shop/k",
                kubernetes=True,
                podSelector={"matchLabels": {"app": "web"}},
                ingress=[{"ports": [{"port": 80}]}],
            ),
        ),
        f"""
        set web: 10.0.0.1
        policy profile kns.shop: {OPEN}
        policy shop/kept: in Allow
        policy shop/changed: in Allow
        policy shop/dropped: in Allow
        policy shop/knp.default.k: in Allow
        policy staged:shop/changed: in Deny from-in:web
        policy staged:g:
        policy staged:kubernetes:shop/k: in Allow proto:6 to-port:80
        endpoint shop/web on cali-web 10.0.0.1:
            in default(shop/changed shop/dropped shop/kept shop/knp.default.k)Deny; out kns.shop
        endpoint shop/db on cali-db 10.0.0.2: in kns.shop; out kns.shop
        staged shop/web on cali-web 10.0.0.1:
            in default(shop/kept staged:shop/changed staged:kubernetes:shop/k staged:g)Deny;
            out kns.shop
        staged shop/db on cali-db 10.0.0.2:
            in default(staged:shop/changed staged:g)Deny; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        route 10.0.0.2 to cali-db borrowed
        host-endpoint eth0 on eth0: nothing
        staged eth0 on eth0: in default(staged:g)Deny
        """,
        net("web", f"{_NS} == 'shop' && app == 'web'"),
    ),
    "two stand in for one": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            policy("shop/knp.default.k", order=1000, selector="all()"),
            staged("shop/knp.default.k", order=1000, selector="all()"),
            staged("shop/k", kubernetes=True),
            policy("shop/z", order=1000, selector="all()"),
        ),
        f"""
        policy profile kns.shop: {OPEN}
        policy shop/knp.default.k:
        policy shop/z:
        policy staged:shop/knp.default.k:
        policy staged:kubernetes:shop/k:
        endpoint shop/web on cali-web 10.0.0.1:
            in default(shop/knp.default.k shop/z)Deny; out kns.shop
        staged shop/web on cali-web 10.0.0.1:
            in default(staged:kubernetes:shop/k staged:shop/knp.default.k shop/z)Deny; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
    "staged without effect": Named(
        state(
            DEFAULT_TIER,
            SHOP,
            WEB,
            staged("shop/p", selector="app == 'db'"),
            staged("shop/q", "Delete"),
            staged("shop/r", selector="nonsense ("),
        ),
        f"""
        policy profile kns.shop: {OPEN}
        endpoint shop/web on cali-web 10.0.0.1: in kns.shop; out kns.shop
        route 10.0.0.1 to cali-web borrowed
        """,
    ),
}
