"""`tortie policy why|list|impact` over the embedded datastore, as users run it."""

import json
from typing import Any

import pytest
from tests.unit.ctl.shell import Shell

HEAD = "apiVersion: projectcalico.org/v3\n"
SHOP = [
    HEAD + "kind: Tier\nmetadata: {name: sec}\nspec: {order: 5}\n",
    HEAD + "kind: Profile\nmetadata: {name: kns.shop}\n"
    "spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}\n",
    *(
        HEAD + f"kind: WorkloadEndpoint\nmetadata: {{name: h1-k8s-{name}-eth0, namespace: shop, "
        f"labels: {{role: {name}}}}}\nspec: {{orchestrator: k8s, node: h1, pod: {name}, "
        f"endpoint: eth0, ipNetworks: [10.0.0.{number}/32, 'fd00::{number}/128'], "
        f"profiles: [kns.shop], interfaceName: cali{number}}}\n"
        for number, name in enumerate(("web", "db", "idle"), start=1)
    ),
]
DB = (
    HEAD + "kind: {kind}\nmetadata: {{name: db, namespace: shop}}\n"
    "spec: {{tier: default, selector: role == 'db', types: [Ingress], ingress: [{rule}]{more}}}\n"
)
FROM_WEB = (
    "{action: Allow, protocol: TCP, source: {selector: role == 'web'}, "
    "destination: {ports: [5432]}}"
)
FROM_NOBODY = "{action: Deny}"
TO_SERVICE = (
    HEAD + "kind: NetworkPolicy\nmetadata: {name: out, namespace: shop}\n"
    "spec: {selector: role == 'web', types: [Egress], egress: "
    "[{action: Allow, destination: {services: {name: db}}}]}\n"
)
SLICE = (
    HEAD + "kind: KubernetesEndpointSlice\nmetadata: {name: db-1, namespace: shop}\n"
    "spec: {service: db, endpoints: [{addresses: [10.0.0.2]}], ports: [{port: 5432}]}\n"
)


def policy(rule: str = FROM_WEB, *, kind: str = "NetworkPolicy", more: str = "") -> str:
    return DB.format(kind=kind, rule=rule, more=more)


@pytest.fixture
def shop(tortie: Shell) -> Shell:
    assert tortie("apply", "-f", tortie.write("shop.yaml", "---\n".join(SHOP))).code == 0
    return tortie


def plain_lines(text: str) -> list[str]:
    return text.replace(",", "").splitlines()


def apply(shop: Shell, *documents: str) -> str:
    outcome = shop("apply", "-f", shop.write("some.yaml", "---\n".join(documents)))
    assert outcome.code == 0, outcome.err
    return outcome.err


def asked(shop: Shell, *words: str) -> Any:
    return json.loads(shop("policy", *words, "-o", "json").out)


def test_why_says_both_halves_and_its_exit_status_is_the_verdict(shop: Shell) -> None:
    apply(shop, policy())
    assert shop("policy", "why", "web", "db", "tcp/5432").code == 0
    denied = shop("policy", "why", "shop/idle", "10.0.0.2", "tcp/5432")
    assert denied.code == 1
    assert "VERDICT  DENY   (egress ALLOW, ingress DENY)" in denied.out
    assert "source.selector: \"role == 'web'\": shop/idle (10.0.0.3) has role=idle" in denied.out
    assert "fix: set label role=web on shop/idle" in denied.out
    wrong_port = shop("policy", "why", "-6", "web", "db", "tcp/80")
    assert wrong_port.code == 1
    assert "destination.ports: 80 is not among 5432" in wrong_port.out
    assert "add 80 to destination.ports" in wrong_port.out
    assert shop("policy", "why", "nobody", "db", "tcp/80").code == 2


def test_why_as_json(shop: Shell) -> None:
    apply(shop, policy())
    found = asked(shop, "why", "idle", "db", "tcp/5432")
    assert (found["verdict"], found["staged"]) == ("Deny", None)
    egress, ingress = found["halves"]
    assert (egress["verdict"], ingress["verdict"]) == ("Allow", "Deny")
    [tier] = ingress["tiers"]
    [rule] = tier["policies"][0]["rules"]
    assert (tier["tier"], tier["byDefault"], rule["matches"]) == ("default", True, False)
    assert rule["because"][0]["field"] == "source.selector"


def test_list_is_in_order_of_evaluation(shop: Shell) -> None:
    first = policy().replace("name: db", "name: sec.first").replace("default", "sec")
    apply(shop, policy(), first)
    rows = asked(shop, "list", "--for", "db")
    assert [(row["way"], row["tier"], row["policy"]) for row in rows] == [
        ("ingress", "tier sec", "NetworkPolicy(shop/sec.first)"),
        ("ingress", "tier default", "NetworkPolicy(shop/db)"),
        ("ingress", "profiles", "Profile(kns.shop)"),
        ("egress", "profiles", "Profile(kns.shop)"),
    ]


def test_list_says_where_only_names_decide(shop: Shell) -> None:
    ordered = policy().replace("tier: default", "tier: default, order: 7")
    apply(shop, ordered, ordered.replace("name: db", "name: second"))
    notes = [row["note"] for row in asked(shop, "list", "--for", "db")]
    assert notes == ["", "same order as the one before: by name", "", ""]


@pytest.mark.parametrize("words", [("--delete", "networkpolicy/shop/db"), ("--label",)])
def test_impact_of_deletions_and_labels(shop: Shell, words: tuple[str, ...]) -> None:
    apply(shop, policy())
    if words == ("--label",):
        words = ("--label", "idle", "role=web")
    found = shop("policy", "impact", *words)
    assert found.code == 1
    assert ["shop/idle", "shop/db", "TCP"] in [line.split()[:3] for line in plain_lines(found.out)]
    assert ["deny", "allow", "1"] in [line.split()[-3:] for line in plain_lines(found.out)]
    # Nothing was applied.
    assert shop("policy", "why", "idle", "db", "tcp/5432").code == 1


def test_impact_of_what_changes_nothing(shop: Shell) -> None:
    apply(shop, policy())
    unused = policy().replace("role == 'db'", "role == 'nobody'").replace("name: db", "name: x")
    outcome = shop("policy", "impact", "-f", shop.write("x.yaml", unused))
    assert (outcome.code, outcome.out) == (0, "no packet is treated differently\n")
    assert shop("policy", "impact").code == 2


def test_what_is_staged_is_told_and_changes_no_verdict(shop: Shell) -> None:
    apply(shop, policy(), policy(FROM_NOBODY, kind="StagedNetworkPolicy"))
    found = shop("policy", "why", "web", "db", "tcp/5432")
    assert found.code == 0
    assert "STAGED   DENY" in found.out
    assert "StagedNetworkPolicy(shop/db)" in found.out
    plain = asked(shop, "why", "web", "db", "tcp/5432")
    assert (plain["verdict"], plain["staged"]["verdict"]) == ("Allow", "Deny")
    listed = shop("policy", "list", "--for", "db").out
    assert listed.index("NetworkPolicy(shop/db)") < listed.index("if all that is staged")
    assert listed.index("if all that is staged") < listed.index("StagedNetworkPolicy(shop/db)")
    assert shop("policy", "impact", "--staged").code == 1
    [change] = asked(shop, "impact", "--staged")[:1]
    assert (change["now"], change["then"]) == ("Allow", "Deny")


def test_a_staged_deletion(shop: Shell) -> None:
    gone = HEAD + (
        "kind: StagedNetworkPolicy\nmetadata: {name: db, namespace: shop}\n"
        "spec: {tier: default, stagedAction: Delete}\n"
    )
    apply(shop, policy(), gone)
    found = asked(shop, "why", "idle", "db", "udp/53")
    assert (found["verdict"], found["staged"]["verdict"]) == ("Deny", "Allow")


def test_services_by_their_slices(shop: Shell) -> None:
    apply(shop, TO_SERVICE)
    missing = shop("policy", "why", "web", "db", "tcp/5432")
    assert missing.code == 1
    assert "nobody serves service shop/db" in missing.out
    path = shop.write("slice.yaml", SLICE)
    opened = asked(shop, "impact", "-f", path)
    assert [(one["from"], one["to"], one["services"]) for one in opened] == [
        ("shop/web", "shop/db", ["TCP 5432"])
    ]
    apply(shop, SLICE)
    assert shop("policy", "why", "web", "db", "tcp/5432").code == 0
    for words, reason in (
        (("db", "tcp/80"), "service shop/db is served at 5432/TCP"),
        (("idle", "tcp/5432"), "does not serve service shop/db"),
    ):
        found = shop("policy", "why", "web", *words)
        assert (found.code, reason in found.out) == (1, True)
    shown = shop("get", "endpointslices", "-n", "shop").out
    assert shown.splitlines()[1].split() == ["shop", "db-1", "db", "5432/TCP", "1"]


HOST = [
    HEAD + "kind: Node\nmetadata: {name: h2}\nspec: {bgp: {ipv4Address: 192.0.2.2/24}}\n",
    HEAD + "kind: HostEndpoint\nmetadata: {name: h2-all, labels: {role: host}}\n"
    "spec: {node: h2, interfaceName: '*'}\n",
    HEAD + "kind: GlobalNetworkPolicy\nmetadata: {name: to-host}\n"
    "spec: {selector: role == 'host', types: [Ingress], ingress: [{action: Allow, protocol: TCP, "
    "source: {selector: role == 'web'}, destination: {ports: [443]}}]}\n",
    HEAD + "kind: GlobalNetworkPolicy\nmetadata: {name: early}\n"
    "spec: {selector: role == 'host', preDNAT: true, applyOnForward: true, types: [Ingress], "
    "ingress: [{action: Deny, source: {nets: [203.0.113.0/24]}}]}\n",
]


def test_hosts_by_their_host_endpoints(shop: Shell) -> None:
    apply(shop, *HOST)
    assert shop("policy", "why", "web", "192.0.2.2", "tcp/443").code == 0
    denied = shop("policy", "why", "idle", "192.0.2.2", "tcp/443")
    assert (denied.code, "set label role=web on shop/idle" in denied.out) == (1, True)
    failsafe = shop("policy", "why", "203.0.113.9", "192.0.2.2", "tcp/22")
    assert (failsafe.code, "failsafe port: Allow" in failsafe.out) == (0, True)
    early = asked(shop, "why", "203.0.113.9", "192.0.2.2", "tcp/443")
    assert early["halves"][0]["tiers"][-1]["tier"] == "default (pre-DNAT)"
    listed = [
        (row["way"], row["tier"], row["policy"]) for row in asked(shop, "list", "--for", "h2-all")
    ]
    assert listed == [
        ("ingress", "tier default (pre-DNAT)", "GlobalNetworkPolicy(early)"),
        ("ingress", "tier default", "GlobalNetworkPolicy(to-host)"),
    ]


def test_impact_on_hosts(shop: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    apply(shop, *HOST)
    outcome = shop("policy", "impact", "--delete", "globalnetworkpolicy/to-host")
    assert outcome.code == 1
    (row,) = [line.split() for line in outcome.out.splitlines() if line.startswith("shop/web")]
    assert row == ["shop/web", "h2-all", "TCP", "443", "allow", "deny", "1"]
    assert outcome.err + capsys.readouterr().err == ""
    apply(shop, HOST[1].replace("h2", "h9"))
    shop("policy", "impact", "--delete", "globalnetworkpolicy/to-host")
    told = "nothing is known of these host endpoints' addresses, so they are left out: h9-all\n"
    assert told in capsys.readouterr().err


def test_workloads_and_their_own_host(shop: Shell) -> None:
    apply(shop, *HOST, HOST[0].replace("h2", "h1").replace("192.0.2.2", "192.0.2.1"))
    dropped = shop("policy", "why", "web", "192.0.2.1", "tcp/443")
    assert (dropped.code, "defaultEndpointToHostAction): Deny" in dropped.out) == (1, True)
    apply(shop, policy())
    assert "a host always reaches its own" in shop("policy", "why", "192.0.2.1", "db", "tcp/80").out
    assert shop("policy", "why", "192.0.2.1", "db", "tcp/80").code == 0
    assert "do not leave it" in shop("policy", "why", "db", "db", "tcp/80").out
    assert shop("policy", "why", "192.0.2.2", "db", "tcp/80").code == 1
    spec = "spec: {defaultEndpointToHostAction: Accept}\n"
    apply(shop, HEAD + "kind: FelixConfiguration\nmetadata: {name: default}\n" + spec)
    assert shop("policy", "why", "web", "192.0.2.1", "tcp/443").code == 0


def test_all_interfaces_host_endpoint_is_asked_about_workloads_too(shop: Shell) -> None:
    passing = (
        HEAD + "kind: GlobalNetworkPolicy\nmetadata: {name: passing}\n"
        "spec: {selector: role == 'host', applyOnForward: true, types: [Ingress], "
        "ingress: [{action: Deny, destination: {nets: [203.0.113.0/24]}}, {action: Allow}]}\n"
    )
    apply(shop, *HOST, HOST[1].replace("h2", "h1"), passing)
    denied = shop("policy", "why", "web", "203.0.113.9", "tcp/443")
    assert (denied.code, "ingress h1-all" in denied.out) == (1, True)
    assert "tier default (forward): GlobalNetworkPolicy(passing)" in denied.out
    assert shop("policy", "why", "web", "198.51.100.9", "tcp/443").code == 0


def test_what_cannot_be_enforced_is_told_when_applied_and_asked_for(shop: Shell) -> None:
    rule = "{action: Allow, http: {methods: [GET]}}"
    text = "rule 1: HTTP cannot be matched here, so the rule matches nothing"
    assert f"warning: NetworkPolicy(shop/db): ingress {text}\n" in apply(shop, policy(rule))
    assert text in shop("policy", "list", "--for", "db").out
    found = shop("policy", "why", "web", "db", "tcp/80")
    assert (found.code, "HTTP is matched by proxies only" in found.out) == (1, True)


# The infrastructure tier.


def test_the_infrastructure_tier_is_printed_to_be_applied(shop: Shell) -> None:
    given = ["--management", "172.20.0.0/16", "--datastore", "192.0.2.7/32"]
    printed = shop("policy", "infrastructure", *given)
    assert printed.code == 0
    assert shop("policy", "why", "web", "169.254.169.254", "tcp/80").code == 0, "nothing is applied"
    apply(shop, printed.out)
    denied = shop("policy", "why", "web", "169.254.169.254", "tcp/80")
    assert denied.code == 1
    assert "tier infrastructure" in denied.out
    assert shop("policy", "why", "-6", "web", "fd00:ec2::254", "tcp/80").code == 1
    assert shop("policy", "why", "web", "172.20.3.4", "udp/53").code == 1
    assert shop("policy", "why", "web", "192.0.2.7", "tcp/2379").code == 1
    assert shop("policy", "why", "web", "192.0.2.7", "tcp/443").code == 0
    assert shop("policy", "why", "web", "198.51.100.1", "tcp/80").code == 0
    # Whoever allows everything in a tier behind it changes nothing.
    every = "spec: {egress: [{action: Allow}], types: [Egress]}\n"
    apply(shop, HEAD + "kind: GlobalNetworkPolicy\nmetadata: {name: open}\n" + every)
    assert shop("policy", "why", "web", "169.254.169.254", "tcp/80").code == 1
    freed = shop("policy", "infrastructure", "--except-namespace", "shop")
    apply(shop, freed.out)
    assert shop("policy", "why", "web", "169.254.169.254", "tcp/80").code == 0


def test_nodes_may_count_as_management(shop: Shell) -> None:
    apply(
        shop,
        HEAD + "kind: Node\nmetadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}, "
        "addresses: [{address: 'fd00:2::1', type: InternalIP}]}\n",
    )
    assert "192.0.2.1" not in shop("policy", "infrastructure").out
    found = shop("policy", "infrastructure", "--nodes").out
    assert "192.0.2.1/32" in found
    assert "fd00:2::1/128" in found


@pytest.mark.parametrize(
    "wrong", [("--management", "ten"), ("--datastore", "1.2.3.4/40"), ("--except-namespace", "a'b")]
)
def test_an_infrastructure_that_cannot_be_is_refused(shop: Shell, wrong: tuple[str, str]) -> None:
    outcome = shop("policy", "infrastructure", *wrong)
    assert outcome.code == 2
    assert not outcome.out
