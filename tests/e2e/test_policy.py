"""Policy by the command line, judged by the oracle with real packets, across hosts."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from tests.e2e.conftest import CAST
from tests.e2e.live import LiveLab
from tests.oracle.clusters import make_world

from tortie.model import codec
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile, Tier

SEEDS = range(100, 108)

TIERS = """
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 100}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.guard}
spec:
  tier: security
  order: 10
  selector: role == 'a'
  types: [Ingress, Egress]
  ingress:
  - {action: Deny, source: {selector: role == 'c'}}
  - {action: Allow, protocol: ICMP, source: {selector: role == 'b'}}
  - {action: Pass}
  egress:
  - {action: Pass}
"""
SHOP = """
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: default.shop, namespace: red}
spec:
  tier: default
  order: 1
  selector: all()
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: has(env)}, destination: {ports: [80]}}
  - action: Allow
    protocol: UDP
    source: {namespaceSelector: all()}
    destination: {ports: ["50:60"]}
  - {action: Allow, protocol: ICMPv6}
"""
NETS = """
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: neighbours, labels: {kind: neighbour}}
spec: {nets: [ADDRESS4/32, ADDRESS6/128]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.egress}
spec:
  order: 5
  selector: role in {'b', 'c'}
  types: [Egress]
  egress:
  - {action: Deny, destination: {selector: kind == 'neighbour'}}
  - {action: Allow, destination: {nets: [0.0.0.0/0], notNets: [ADDRESS4/32]}}
  - {action: Allow, ipVersion: 6, destination: {notPorts: [81]}, protocol: TCP}
"""


def test_everyone_reaches_everyone_without_policy(live: LiveLab) -> None:
    assert all(live.check("no policy").values())


def test_tiered_policies_are_applied_changed_and_deleted(live: LiveLab, tmp_path: Path) -> None:
    live.apply(TIERS, tmp_path)
    with_tiers = live.check("the security tier alone")
    assert set(with_tiers.values()) == {True, False}, "the set proves nothing"

    live.apply(TIERS + SHOP, tmp_path)
    with_shop = live.check("with a namespaced policy")
    assert with_shop != with_tiers

    third = live.lab.workload("red/w3")
    nets = NETS.replace("ADDRESS4", third.addresses[0]).replace("ADDRESS6", third.addresses[1])
    live.apply(TIERS + SHOP + nets, tmp_path)
    with_nets = live.check("with network sets")
    assert with_nets != with_shop

    changed = SHOP.replace("ports: [80]", "ports: [81]").replace("has(env)", "role == 'c'")
    live.apply(changed, tmp_path)
    assert live.check("the namespaced policy changed") != with_nets

    live.ok("delete", "globalnetworkpolicy", "security.guard")
    live.ok("delete", "tier", "security")
    live.settle()
    live.check("without the security tier")

    live.ok("delete", "networkpolicy", "default.shop", "-n", "red")
    live.ok("delete", "globalnetworkpolicy", "default.egress")
    live.ok("delete", "globalnetworkset", "neighbours")
    live.settle()
    assert all(live.check("all deleted").values())


def test_a_label_changes_and_the_rules_follow(live: LiveLab, tmp_path: Path) -> None:
    live.apply(TIERS + SHOP, tmp_path)
    before = live.check("before")
    try:
        live.lab_ok("workload", "label", "w4", "role=c", "env=dev")
        live.settle()
        after = live.check("with another label")
        assert after != before
    finally:
        live.lab_ok("workload", "label", "w4", "role=a", "env-")
    live.settle()
    assert live.check("and back") == before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_cluster(live: LiveLab, seed: int) -> None:
    """Seeds that happen to mean both yes and no."""
    with live.restored(endpoints=True):
        live.write_raw(dict(_random_resources(live, seed)))
        live.check(f"seed {seed}")


def _random_resources(live: LiveLab, seed: int) -> Iterator[tuple[str, bytes]]:
    """Policies, tiers, sets and profiles of a random world, and what its workloads are like.

    Its addresses become those of our workloads.
    """
    world = make_world(seed)
    addresses = _translation(live)
    endpoints = [value for value in world.values() if isinstance(value, WorkloadEndpoint)]
    for key, value in world.items():
        if isinstance(
            value,
            Tier | NetworkPolicy | GlobalNetworkPolicy | NetworkSet | GlobalNetworkSet | Profile,
        ):
            assert isinstance(key, ResourceKey)
            text = codec.encode(key, value).decode()
            for old, new in addresses.items():
                text = text.replace(f'"{old}"', f'"{new}"')
            yield key.path, text.encode()
    state = live.state()
    ours = [(key, one) for key, one in state.items() if isinstance(one, WorkloadEndpoint)]
    for (key, one), other in zip(ours, endpoints, strict=False):
        assert isinstance(key, ResourceKey)
        labels = {name: text for name, text in other.metadata.labels.items() if "/" not in name}
        kept = {name: text for name, text in one.metadata.labels.items() if "/" in name}
        spec = replace(
            one.spec,
            ports=other.spec.ports,
            profiles=other.spec.profiles,
            service_account_name=other.spec.service_account_name,
        )
        metadata = replace(one.metadata, labels={**labels, **kept})
        changed = replace(one, spec=spec, metadata=metadata)
        yield key.path, codec.encode(key, changed)


def _translation(live: LiveLab) -> dict[str, str]:
    ours = [live.lab.workload(name).addresses for name, *_ in CAST]
    four = [addresses[0] for addresses in ours]
    six = [addresses[1] for addresses in ours]
    return {
        "10.65.0.0/24": "10.65.0.0/16",
        "10.65.0.0/30": f"{four[0].rpartition('.')[0]}.0/24",
        "10.65.0.4/30": f"{four[2]}/31" if int(four[2].rpartition(".")[2]) % 2 == 0 else four[2],
        "10.65.0.2": four[1],
        "10.65.0.5/32": f"{four[4]}/32",
        "fd00:65::/64": "fd65::/64",
        "fd00:65::/126": f"{six[0]}/128",
        "fd00:65::4/126": f"{six[2]}/128",
        "fd00:65::2": six[1],
        "fd00:65::5/128": f"{six[4]}/128",
    }


def test_a_world_is_translated() -> None:
    """The mapping covers what the generator writes; else random policies meet nobody."""
    text = b"".join(
        msgspec.json.encode(codec.to_plain(value))
        for seed in SEEDS
        for value in make_world(seed).values()
        if isinstance(value, GlobalNetworkPolicy | NetworkPolicy | GlobalNetworkSet | NetworkSet)
    ).decode()
    for net in ("10.65.0.0/24", "10.65.0.0/30", "10.65.0.2", "fd00:65::/64"):
        assert f'"{net}"' in text
