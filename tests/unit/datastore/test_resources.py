"""Resources over the in-memory datastore: the rules between objects."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal, TypeVar, cast

import msgspec
import pytest

from tortie.datastore.client import Delete, Put, Txn
from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.datastore.resources import Resources
from tortie.lib.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from tortie.model.bgp_filter import BGPFilter
from tortie.model.bgp_peer import BGPPeer, BGPPeerSpec
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata, Resource
from tortie.model.network_set import NetworkSet, NetworkSetSpec
from tortie.model.node import ClusterInformation, IPPool, IPPoolSpec, Node
from tortie.model.policy import NetworkPolicy, NetworkPolicySpec, Profile, Tier, TierSpec
from tortie.model.staged_policy import StagedGlobalNetworkPolicy, StagedNetworkPolicy

T = TypeVar("T")
NOON = datetime(2026, 3, 1, 12, 0, 0, 999999, UTC)
NODES = "/calico/resources/v3/projectcalico.org/nodes/"
POLICIES = "/calico/resources/v3/projectcalico.org/networkpolicies/"


def _run(act: Callable[[Resources, MemoryClient], Awaitable[T]]) -> T:
    async def with_store() -> T:
        client = MemoryClient(MemoryStore())
        resources = Resources(client, now=lambda: NOON)
        await resources.ensure_initialized()
        return await act(resources, client)

    return asyncio.run(with_store())


def _node(name: str = "n", **labels: str) -> Node:
    return Node(metadata=Metadata(name=name, labels=labels))


def _policy(name: str = "p", tier: str = "default", selector: str = "") -> NetworkPolicy:
    return NetworkPolicy(
        metadata=Metadata(name=name, namespace="ns"),
        spec=NetworkPolicySpec(tier=tier, selector=selector),
    )


def _pool(name: str, cidr: str, size: int = 0) -> IPPool:
    return IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, block_size=size))


def _relabelled(resource: Resource, **labels: str) -> Resource:
    metadata = msgspec.structs.replace(resource.metadata, labels=labels)
    return msgspec.structs.replace(resource, metadata=metadata)


def test_creating_gives_identity_and_time() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        created = await resources.create(_node())
        metadata = created.resource.metadata
        assert len(metadata.uid) == 36
        assert metadata.creation_timestamp == "2026-03-01T12:00:00Z"
        assert metadata.resource_version == str(created.revision)
        assert await resources.get(ResourceKey("Node", "n")) == created
        stored = msgspec.json.decode(created.raw)
        assert "resourceVersion" not in stored["metadata"]
        assert stored["kind"] == "Node"

        with pytest.raises(AlreadyExists, match=r"Node\(n\)"):
            await resources.create(_node())
        with pytest.raises(InvalidInput, match="resourceVersion"):
            await resources.create(created.resource)

    _run(act)


def test_updating_keeps_what_the_datastore_owns() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        raw = (
            b'{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n","uid":"u",'
            b'"creationTimestamp":"2020-01-01T00:00:00Z","newer":1},"spec":{"newer":{"x":2}},'
            b'"status":{"podCIDRs":["10.0.0.0/24"]},"later":[]}'
        )
        await client.put(NODES + "n", raw)
        await resources.update(_node(a="b"))
        entry = await client.get(NODES + "n")
        assert entry is not None
        stored = msgspec.json.decode(entry.value)
        assert stored["metadata"] == {
            "name": "n", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z",
            "labels": {"a": "b"}, "newer": 1,
        }  # fmt: skip
        assert stored["spec"] == {"newer": {"x": 2}}
        assert stored["status"] == {"podCIDRs": ["10.0.0.0/24"]}
        assert stored["later"] == []

    _run(act)


def test_updating_a_version_that_is_no_more() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        first = await resources.create(_node())
        await resources.update(_relabelled(first.resource, a="1"))
        with pytest.raises(Conflict, match="read it again"):
            await resources.update(_relabelled(first.resource, a="2"))
        with pytest.raises(NotFound):
            await resources.update(_node("other"))

    _run(act)


def test_applying_creates_then_updates_and_writes_only_changes() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        first = await resources.apply(_node(a="1"))
        same = await resources.apply(_node(a="1"))
        assert same.revision == first.revision == await client.revision()
        changed = await resources.apply(_node(a="2"))
        assert changed.revision > first.revision
        assert changed.resource.metadata.uid == first.resource.metadata.uid

    _run(act)


def test_applying_wins_against_another_writer() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await resources.create(_node(a="0"))
        rivals = iter(range(3))

        async def rival(moment: Literal["before", "after"], call: str) -> None:
            if (moment, call) == ("before", "transact") and next(rivals, None) is not None:
                client.store.transact(_touch(client, NODES + "n"))

        client.fault = rival
        await resources.apply(_node(a="1"))
        client.fault = None
        stored = await resources.get(ResourceKey("Node", "n"))
        assert stored.resource.metadata.labels == {"a": "1"}
        assert next(rivals, None) is None

    _run(act)


def _touch(client: MemoryClient, key: str) -> Txn:
    entry = client.store.entry(key)
    assert entry is not None
    return Txn(success=[Put(key, entry.value)])


def test_a_policy_needs_its_tier() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        with pytest.raises(InvalidInput, match=r"spec.tier: there is no tier 'sec'.*kube-admin"):
            await resources.create(_policy(tier="sec"))
        await resources.create(Tier(metadata=Metadata(name="sec"), spec=TierSpec(order=1)))
        await resources.create(_policy(tier="sec"))
        with pytest.raises(InvalidInput, match="there is no tier"):
            await resources.update(_policy(tier="gone"))
        with pytest.raises(InvalidInput, match=r"not empty: NetworkPolicy\(ns/p\)"):
            await resources.delete(ResourceKey("Tier", "sec"))
        await resources.delete(ResourceKey("NetworkPolicy", "p", "ns"))
        await resources.delete(ResourceKey("Tier", "sec"))

    _run(act)


def test_a_tier_that_goes_meanwhile_is_noticed() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await resources.create(Tier(metadata=Metadata(name="sec")))

        async def remove(moment: Literal["before", "after"], call: str) -> None:
            if (moment, call) == ("before", "transact"):
                client.store.transact(Txn(success=[Delete(ResourceKey("Tier", "sec").path)]))

        client.fault = remove
        with pytest.raises(InvalidInput, match="there is no tier"):
            await resources.create(_policy(tier="sec"))
        client.fault = None
        assert not (await resources.list("NetworkPolicy")).items

    _run(act)


@pytest.mark.parametrize("name", ["default", "kube-admin", "kube-baseline"])
def test_built_in_tiers_stay(name: str) -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        with pytest.raises(InvalidInput, match="built in"):
            await resources.delete(ResourceKey("Tier", name))

    _run(act)


def test_initialising_twice_changes_nothing() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        revision = await client.revision()
        await resources.ensure_initialized()
        assert await client.revision() == revision
        tiers = {t.metadata.name: t.spec for t in await resources.all_of(Tier)}
        assert {n: (s.order, s.default_action) for n, s in tiers.items()} == {
            "default": (1000000, "Deny"),
            "kube-admin": (1000, "Pass"),
            "kube-baseline": (10000000, "Pass"),
        }
        stored = await resources.get(ResourceKey("ClusterInformation", "default"))
        spec = msgspec.json.decode(stored.raw)["spec"]
        assert spec["datastoreReady"] is True
        assert len(bytes.fromhex(spec["clusterGUID"])) == 16

    _run(act)


def test_pools_do_not_overlap_and_do_not_move() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await resources.create(_pool("a", "10.0.0.0/16"))
        with pytest.raises(InvalidInput, match="overlaps the pool 'a'"):
            await resources.create(_pool("b", "10.0.128.0/17"))
        await resources.create(_pool("b", "10.1.0.0/16"))
        await resources.create(_pool("c", "fd00::/64"))
        with pytest.raises(InvalidInput, match=r"spec\.cidr: cannot change"):
            await resources.apply(_pool("a", "10.2.0.0/16"))
        with pytest.raises(InvalidInput, match=r"spec\.blockSize: cannot change"):
            await resources.apply(_pool("a", "10.0.0.0/16", 27))
        await resources.apply(_pool("a", "10.0.0.0/16"))

    _run(act)


def test_blocks_of_another_size_refuse_a_pool() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await client.put("/calico/ipam/v2/assignment/ipv4/block/10.0.3.0-27", b"{}")
        with pytest.raises(InvalidInput, match=r"10\.0\.3\.0/27"):
            await resources.create(_pool("a", "10.0.0.0/16"))
        await resources.create(_pool("a", "10.0.0.0/16", 27))

    _run(act)


def test_what_comes_together_is_checked_together() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        def ready(*given: Resource) -> list[Resource]:
            return [msgspec.structs.replace(r, kind=type(r).__name__) for r in given]

        tier = Tier(metadata=Metadata(name="sec"))
        await resources.check_together(ready(_policy(tier="sec"), tier))
        with pytest.raises(InvalidInput, match="there is no tier"):
            await resources.check_together(ready(_policy(tier="sec")))
        with pytest.raises(InvalidInput, match="twice"):
            await resources.check_together(ready(tier, tier))
        pools = ready(_pool("a", "10.0.0.0/8"), _pool("b", "10.9.0.0/16"))
        with pytest.raises(InvalidInput, match="overlaps"):
            await resources.check_together(pools)

    _run(act)


def test_invalid_resources_are_refused_and_nothing_is_written() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        revision = await client.revision()
        for write in (resources.create, resources.update, resources.apply):
            with pytest.raises(InvalidInput, match=r"spec\.selector"):
                await write(_policy(selector="(("))
        assert await client.revision() == revision

    _run(act)


def test_unreadable_objects_are_left_out_told_and_repairable() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await client.put(NODES + "bad", b'{"metadata":{"name":"bad"},"spec":7}')
        await resources.create(_node("good"))
        found = await resources.list("Node")
        assert [s.resource.metadata.name for s in found.items] == ["good"]
        assert len(found.unreadable) == 1
        assert "Node(bad)" in found.unreadable[0]
        with pytest.raises(InvalidInput):
            await resources.get(ResourceKey("Node", "bad"))
        await resources.apply(_node("bad"))
        assert len((await resources.list("Node")).items) == 2

    _run(act)


def test_old_policies_are_found_by_their_name_and_stay_where_they_are() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        raw = b'{"metadata":{"name":"default.web","namespace":"ns"},"spec":{"newer":1}}'
        await client.put(POLICIES + "ns/default.web", raw)
        key = ResourceKey("NetworkPolicy", "web", "ns")
        assert (await resources.get(key)).resource.metadata.name == "web"
        await resources.apply(_policy("web", selector="all()"))
        listing = await client.list(POLICIES)
        assert [entry.key for entry in listing.entries] == [POLICIES + "ns/default.web"]
        assert (await resources.get(key)).resource.metadata.name == "web"
        await resources.delete(key)
        assert not (await client.list(POLICIES)).entries

    _run(act)


def test_the_built_in_profile() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        key = ResourceKey("Profile", "projectcalico-default-allow")
        profile = cast(Profile, (await resources.get(key)).resource)
        assert [rule.action for rule in profile.spec.ingress + profile.spec.egress] == ["Allow"] * 2
        assert [p.metadata.name for p in await resources.all_of(Profile)] == [key.name]
        with pytest.raises(InvalidInput):
            await resources.delete(key)
        with pytest.raises(InvalidInput):
            await resources.apply(Profile(metadata=Metadata(name=key.name)))

    _run(act)


def test_endpoint_names_are_computed() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        spec = WorkloadEndpointSpec(node="n-1", orchestrator="lab", workload="w", endpoint="e")
        endpoint = WorkloadEndpoint(metadata=Metadata(namespace="ns"), spec=spec)
        stored = await resources.create(endpoint)
        assert stored.path.endswith("/workloadendpoints/ns/n--1-lab-w-e")
        wrong = WorkloadEndpoint(metadata=Metadata(namespace="ns", name="x"), spec=spec)
        with pytest.raises(InvalidInput, match="n--1-lab-w-e"):
            await resources.create(wrong)

    _run(act)


def test_lists_are_by_namespace() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        for namespace, name in (("b", "x"), ("a", "y"), ("ab", "z")):
            await resources.create(NetworkSet(metadata=Metadata(name=name, namespace=namespace)))
        one = await resources.list("NetworkSet", "a")
        assert [s.resource.metadata.name for s in one.items] == ["y"]
        every = await resources.list("NetworkSet")
        assert [s.resource.metadata.namespace for s in every.items] == ["a", "ab", "b"]

    _run(act)


def test_deleting() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        first = await resources.create(_node())
        await resources.apply(_node(a="b"))
        key = ResourceKey("Node", "n")
        with pytest.raises(Conflict):
            await resources.delete(key, first.revision)
        await resources.delete(key)
        with pytest.raises(NotFound):
            await resources.delete(key)

    _run(act)


def test_too_large_is_refused_before_the_datastore_sees_it() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        nets = tuple(f"fd00::{i >> 16:x}:{i & 0xFFFF:x}/128" for i in range(100_000))
        big = NetworkSet(
            metadata=Metadata(name="x", namespace="ns"), spec=NetworkSetSpec(nets=nets)
        )
        with pytest.raises(InvalidInput, match="bytes, more than"):
            await resources.create(big)

    _run(act)


def test_the_first_node_initialises_the_cluster() -> None:
    async def act() -> None:
        resources = Resources(MemoryClient(MemoryStore()))
        await resources.create(_node())
        assert len(await resources.all_of(Tier)) == 3
        assert await resources.get(ResourceKey("ClusterInformation", "default"))

    asyncio.run(act())


def test_words_of_the_cluster_type_are_added_never_taken() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        for given, expected in (("lab", "lab"), ("k8s,bgp", "lab,k8s,bgp"), ("bgp", "lab,k8s,bgp")):
            await resources.ensure_initialized(given)
            found = await resources.get(ResourceKey("ClusterInformation", "default"))
            assert cast(ClusterInformation, found.resource).spec.cluster_type == expected

    _run(act)


@pytest.mark.parametrize("kind", [StagedNetworkPolicy, StagedGlobalNetworkPolicy])
def test_staged_policies_are_in_tiers_too(
    kind: type[StagedNetworkPolicy] | type[StagedGlobalNetworkPolicy],
) -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        namespace = "ns" if kind is StagedNetworkPolicy else ""
        wanted = kind(metadata=Metadata(name="p", namespace=namespace))
        spec = msgspec.structs.replace(wanted.spec, tier="sec", staged_action="Delete")
        wanted = msgspec.structs.replace(wanted, spec=spec)
        with pytest.raises(InvalidInput, match="there is no tier 'sec'"):
            await resources.create(wanted)
        await resources.create(Tier(metadata=Metadata(name="sec")))
        stored = await resources.create(wanted)
        annotations = msgspec.json.decode(stored.raw)["metadata"]["annotations"]
        assert annotations == {"projectcalico.org/metadata": '{"name":"p"}'}
        with pytest.raises(InvalidInput, match="not empty"):
            await resources.delete(ResourceKey("Tier", "sec"))
        key = ResourceKey(kind.__name__, "p", namespace)
        found = cast(StagedNetworkPolicy, (await resources.get(key)).resource)
        assert found.metadata.annotations == {}
        assert (found.spec.tier, found.spec.staged_action) == ("sec", "Delete")

    _run(act)


def test_filters_of_a_peer_must_exist() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        spec = BGPPeerSpec(peer_ip="10.0.0.1", as_number=64512, filters=("a", "b"))
        peer = BGPPeer(kind="BGPPeer", metadata=Metadata(name="p"), spec=spec)
        first, second = (
            BGPFilter(kind="BGPFilter", metadata=Metadata(name=name)) for name in ("a", "b")
        )
        await resources.create(first)
        message = r"BGPPeer\(p\): spec\.filters\[1\]: there is no BGPFilter 'b'"
        with pytest.raises(InvalidInput, match=message):
            await resources.create(peer)
        with pytest.raises(InvalidInput, match=message):
            await resources.check_together([peer])
        await resources.check_together([second, peer])
        await resources.create(second)
        await resources.create(peer)
        await resources.delete(ResourceKey("BGPFilter", "a"))
        spec = msgspec.structs.replace(spec, as_number=1)
        with pytest.raises(InvalidInput, match=r"spec\.filters\[0\]"):
            await resources.update(msgspec.structs.replace(peer, spec=spec))

    _run(act)
