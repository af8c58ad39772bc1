"""The controllers against a real API server; what they write is read back from the datastore."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest
from tests.kube.control_plane import CONTROLLERS, ControlPlane, path_of

from tortie.datastore.memory import MemoryClient
from tortie.datastore.resources import Resources, key_of
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import allocations
from tortie.ipam.inventory import read_inventory
from tortie.kube import nodes
from tortie.kube.api import HttpApi
from tortie.kube.controllers import Controllers
from tortie.kube.policies import HOLD_SECONDS
from tortie.kube.settings import NAMES, Settings
from tortie.lib import kubeconfig
from tortie.lib.errors import NotFound
from tortie.lib.ip import Network
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.kube_controllers import HostEndpointTemplate
from tortie.model.kubernetes.workload import pod_endpoint
from tortie.model.metadata import Metadata, Resource
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeBGP, NodeSpec, OrchRef
from tortie.model.validation import with_defaults

SETTINGS = Settings(
    controllers=frozenset(NAMES),
    resync_seconds=300.0,
    compaction_seconds=0.0,
    syncs_labels=True,
    host_endpoint_templates=(),
    leak_grace_seconds=900.0,
    assigns_all_services=True,
    log_severity="Info",
    health_enabled=False,
)
WAIT_SECONDS = 15.0

names = (f"ns{number}" for number in itertools.count())


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """Its objects are there; without a controller manager it would never quite be gone."""
    name = next(names)
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@contextlib.asynccontextmanager
async def running(
    plane: ControlPlane, resources: Resources, settings: Settings = SETTINGS
) -> AsyncIterator[Controllers]:
    # With the rights that the manifests give them, and no more.
    api = HttpApi(kubeconfig.read(plane.kubeconfig(CONTROLLERS, "controllers.conf")))
    controllers = Controllers(api, resources, settings)
    task = asyncio.create_task(controllers.run())
    try:
        await asyncio.wait_for(controllers.settled(), WAIT_SECONDS)
        yield controllers
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()


async def until(is_so: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The first true answer."""
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(NotFound):
            if answer := await is_so():
                return answer
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)


async def is_gone(resources: Resources, key: ResourceKey) -> bool:
    try:
        await resources.get(key)
    except NotFound:
        return True
    return False


async def on_thread(act: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(act, *arguments)


def policy(namespace: str, name: str, port: int = 80) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"ports": [{"protocol": "TCP", "port": port}]}],
        },
    }


def pod(namespace: str, name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "default",
            "containers": [
                {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}
            ],
        },
    }


def test_a_policy_is_followed_from_its_making_to_its_end(
    control_plane: ControlPlane, namespace: str
) -> None:
    key = ResourceKey("NetworkPolicy", "knp.default.web", namespace)

    async def run() -> None:
        resources = Resources(MemoryClient())
        await on_thread(control_plane.create, policy(namespace, "web"))
        async with running(control_plane, resources):
            first: Any = (await resources.get(key)).resource
            assert first.spec.ingress[0].destination.ports == (80,)
            path = path_of(policy(namespace, "web"))
            changed = policy(namespace, "web", 81)
            await on_thread(control_plane.patch, path, {"spec": changed["spec"]})

            async def has_81() -> bool:
                found: Any = (await resources.get(key)).resource
                return bool(found.spec.ingress[0].destination.ports == (81,))

            await until(has_81)
            await on_thread(control_plane.delete, path)
            await until(lambda: is_gone(resources, key))

    asyncio.run(run())


def test_l11_policy_outlives_the_pods_of_a_namespace_that_ends(
    control_plane: ControlPlane, namespace: str
) -> None:
    """CVE-2024-7598: policies go before pods that take their time, also while nobody looks."""
    web, other = (ResourceKey("NetworkPolicy", f"knp.default.{n}", namespace) for n in "ab")

    async def run() -> None:
        client = MemoryClient()
        resources = Resources(client)
        for name in "ab":
            await on_thread(control_plane.create, policy(namespace, name))
        made = pod_endpoint(await on_thread(control_plane.create, pod(namespace, "slow")))
        assert made is not None
        async with running(control_plane, resources):
            # Its own endpoint, as the plugin has made it.
            endpoint = await resources.create(with_defaults(made[1]))
            await resources.get(web)
            await on_thread(control_plane.delete, path_of(policy(namespace, "b")))
            await until(lambda: is_gone(resources, other))  # the namespace lives: at once
            # Without a controller manager it stays Terminating, and we say in which order.
            await on_thread(control_plane.delete, f"/api/v1/namespaces/{namespace}")
            await on_thread(control_plane.delete, path_of(policy(namespace, "a")))
            await asyncio.sleep(2 * HOLD_SECONDS + 0.5)
            assert not await is_gone(resources, web)
        async with running(control_plane, resources):  # another leader
            assert not await is_gone(resources, web)
            await resources.delete(key_of(endpoint.resource))
            await until(lambda: is_gone(resources, web))

    asyncio.run(run())


def test_what_happened_while_nobody_looked_is_made_good(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A policy was deleted, one was made, one was spoiled by hand; other people's stay."""

    async def run() -> None:
        resources = Resources(MemoryClient())
        for name in ("gone", "spoiled"):
            await on_thread(control_plane.create, policy(namespace, name))
        async with running(control_plane, resources):
            pass
        await on_thread(control_plane.delete, path_of(policy(namespace, "gone")))
        await on_thread(control_plane.create, policy(namespace, "new"))
        spoiled = ResourceKey("NetworkPolicy", "knp.default.spoiled", namespace)
        right: Any = (await resources.get(spoiled)).resource
        wrong = msgspec.structs.replace(
            right, spec=msgspec.structs.replace(right.spec, ingress=(), selector="all()")
        )
        await resources.update(wrong)
        metadata = Metadata(name="by-hand", namespace=namespace)
        by_hand = msgspec.structs.replace(right, metadata=metadata)
        await resources.create(by_hand)
        async with running(control_plane, resources):
            found = await resources.list("NetworkPolicy", namespace)
        assert [stored.resource.metadata.name for stored in found.items] == [
            "by-hand", "knp.default.new", "knp.default.spoiled",
        ]  # fmt: skip
        assert found.items[2].resource.spec == right.spec  # type: ignore[attr-defined]

    asyncio.run(run())


def test_namespaces_and_service_accounts_lend_their_labels(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def run() -> None:
        resources = Resources(MemoryClient())
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "bot", "namespace": namespace, "labels": {"tier": "gold"}},
        }
        await on_thread(control_plane.create, account)
        async with running(control_plane, resources):
            of_account: Any = (
                await resources.get(ResourceKey("Profile", f"ksa.{namespace}.bot"))
            ).resource
            assert of_account.spec.labels_to_apply["pcsa.tier"] == "gold"
            path = f"/api/v1/namespaces/{namespace}"
            await on_thread(control_plane.patch, path, {"metadata": {"labels": {"team": "blue"}}})

            async def is_blue() -> bool:
                key = ResourceKey("Profile", f"kns.{namespace}")
                found: Any = (await resources.get(key)).resource
                return bool(found.spec.labels_to_apply.get("pcns.team") == "blue")

            await until(is_blue)

    asyncio.run(run())


def test_labels_of_a_pod_reach_its_endpoint_and_its_addresses_stay(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def run() -> None:
        resources = Resources(MemoryClient())
        object_ = pod(namespace, "p", app="web")
        await on_thread(control_plane.create, object_)
        made = pod_endpoint(object_)
        assert made is not None
        key, endpoint = made
        bare = msgspec.structs.replace(
            endpoint,
            metadata=Metadata(name=key.name, namespace=namespace),
            spec=msgspec.structs.replace(
                endpoint.spec, ip_networks=("10.65.0.7/32",), ports=(), container_id="abc",
                mac="ee:ee:ee:ee:ee:ee",
            ),
        )  # fmt: skip
        await resources.create(bare)

        async def labels() -> tuple[str | None, WorkloadEndpoint]:
            found = (await resources.get(key)).resource
            assert isinstance(found, WorkloadEndpoint)
            return found.metadata.labels.get("app"), found

        async with running(control_plane, resources):
            app, found = await labels()
            assert app == "web"
            assert [port.name for port in found.spec.ports] == ["http"]
            assert found.spec.ip_networks == ("10.65.0.7/32",)
            assert found.spec.container_id == "abc"
            await on_thread(
                control_plane.patch, path_of(object_), {"metadata": {"labels": {"app": "db"}}}
            )

            async def is_db() -> bool:
                return (await labels())[0] == "db"

            await until(is_db)
            # Its end is the plugin's business.
            await on_thread(control_plane.delete, path_of(object_) + "?gracePeriodSeconds=0")
            await asyncio.sleep(0.3)
            assert (await labels())[0] == "db"

    asyncio.run(run())


def node(name: str, kube_name: str = "") -> Node:
    return Node(
        kind="Node",
        metadata=Metadata(name=name, labels={"mine": "stays"}),
        spec=NodeSpec(bgp=NodeBGP(ipv4_address="172.30.0.1/24")),
    )


def test_a_node_has_its_labels_and_host_endpoint_and_goes_with_all_that_it_had(
    control_plane: ControlPlane,
) -> None:
    settings = SETTINGS._replace(host_endpoint_templates=(HostEndpointTemplate(),))
    object_: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "worker", "labels": {"rack": "7", "zone": "a"}},
    }

    async def stored(resources: Resources) -> Any:
        return (await resources.get(ResourceKey("Node", "worker"))).resource

    async def run() -> None:
        resources = Resources(MemoryClient())
        await on_thread(control_plane.create, object_)
        await resources.create(node("worker"))
        await resources.create(node("by-hand"))
        automatic = ResourceKey("HostEndpoint", "worker-auto-hep")
        async with running(control_plane, resources, settings):
            found = await stored(resources)
            assert found.metadata.labels["rack"] == "7"
            assert found.metadata.labels["mine"] == "stays"
            assert [reference.node_name for reference in found.spec.orch_refs] == ["worker"]

            async def has_endpoint() -> Any:
                return (await resources.get(automatic)).resource

            endpoint = await until(has_endpoint)
            assert endpoint.spec.interface_name == "*"
            assert endpoint.spec.expected_ips == ("172.30.0.1",)
            labels = {"rack": None, "zone": "b"}
            await on_thread(control_plane.patch, path_of(object_), {"metadata": {"labels": labels}})

            async def is_relabelled() -> bool:
                now = (await stored(resources)).metadata.labels
                return now.get("zone") == "b" and "rack" not in now and now["mine"] == "stays"

            await until(is_relabelled)
            await on_thread(control_plane.delete, path_of(object_))
            await until(lambda: is_gone(resources, ResourceKey("Node", "worker")))
            await until(lambda: is_gone(resources, automatic))
            # Never of Kubernetes, so not Kubernetes' to remove.
            await resources.get(ResourceKey("Node", "by-hand"))

    asyncio.run(run())


def test_a_host_endpoint_of_former_settings_goes(control_plane: ControlPlane) -> None:
    object_ = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w2"}}

    async def run() -> None:
        resources = Resources(MemoryClient())
        await on_thread(control_plane.create, object_)
        await resources.create(node("w2"))
        key = ResourceKey("HostEndpoint", "w2-auto-hep")
        with_endpoints = SETTINGS._replace(host_endpoint_templates=(HostEndpointTemplate(),))

        async def exists() -> Resource:
            return (await resources.get(key)).resource

        async with running(control_plane, resources, with_endpoints):
            await until(exists)
        async with running(control_plane, resources):
            await until(lambda: is_gone(resources, key))

    asyncio.run(run())


def test_the_api_server_dies_and_comes_back_with_news(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def run() -> None:
        resources = Resources(MemoryClient())
        async with running(control_plane, resources):
            await on_thread(control_plane.create, policy(namespace, "before"))
            before = ResourceKey("NetworkPolicy", "knp.default.before", namespace)
            await until(lambda: resources.get(before))
            await on_thread(control_plane.kill, "kube-apiserver")
            await asyncio.sleep(0.5)
            assert (await resources.get(before)).resource  # absence of news is no news
            await on_thread(control_plane.start_api)
            await on_thread(control_plane.create, policy(namespace, "after"))
            after = ResourceKey("NetworkPolicy", "knp.default.after", namespace)
            await until(lambda: resources.get(after))

    asyncio.run(run())


def test_an_address_is_given_back_once_no_endpoint_no_pod_and_no_second_look_knows_it(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Four allocations: of a pod that is there, of one that is not, of a host that is not, and
    of something that has nothing to do with Kubernetes."""
    object_: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}

    async def run() -> None:
        client = MemoryClient()
        resources = Resources(client)
        await resources.ensure_initialized()
        await on_thread(control_plane.apply, object_)
        await on_thread(control_plane.create, pod(namespace, "there"))
        await resources.create(node("n1"))
        spec = IPPoolSpec(cidr="10.65.0.0/16")
        await resources.create(IPPool(kind="IPPool", metadata=Metadata(name="p"), spec=spec))
        held: dict[str, list[Network]] = {}
        for host, name in (("n1", "there"), ("n1", "gone"), ("lost", "x"), ("n1", "")):
            attributes = {"namespace": namespace, "pod": name} if name else {}
            allocator = Allocator(client, host)
            held[name] = await allocator.assign((4,), f"net.{name or 'other'}", attributes)
        async with running(control_plane, resources) as controllers:
            leaks = controllers.leak_collector()
            assert await leaks.collect() == []
            released = await leaks.collect()
        assert {leak.handle_id for leak in released} == {"net.gone", "net.x"}
        state = await read_inventory(client)
        left = {allocation.handle_id for allocation in allocations(state)}
        assert left == {"net.there", "net.other"}

    asyncio.run(run())


def test_who_serves_a_service_is_known_from_its_slices(
    control_plane: ControlPlane, namespace: str
) -> None:
    """v1beta1 here: the server of 1.20 knows no other."""
    slice_: dict[str, Any] = {
        "apiVersion": "discovery.k8s.io/v1beta1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-abc",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.65.0.7"], "topology": {"kubernetes.io/hostname": "n1"}},
            {"addresses": ["10.65.0.8"], "conditions": {"ready": False}},
        ],
    }
    key = ResourceKey("KubernetesEndpointSlice", "web-abc", namespace)

    async def run() -> None:
        resources = Resources(MemoryClient())
        await on_thread(control_plane.create, slice_)
        async with running(control_plane, resources):
            found: Any = (await resources.get(key)).resource
            assert found.spec.service == "web"
            assert [(one.addresses, one.node_name, one.ready) for one in found.spec.endpoints] == [
                (("10.65.0.7",), "n1", True), (("10.65.0.8",), "", False),
            ]  # fmt: skip
            assert [(port.protocol, port.port) for port in found.spec.ports] == [("TCP", 8080)]
            await on_thread(control_plane.delete, path_of(slice_))
            await until(lambda: is_gone(resources, key))

    asyncio.run(run())


def test_a_host_may_be_here_before_its_kubelet_and_not_for_ever(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    joining = msgspec.structs.replace(
        node("joining"),
        spec=NodeSpec(orch_refs=(OrchRef(node_name="joining", orchestrator="k8s"),)),
    )
    key = ResourceKey("Node", "joining")

    async def run() -> None:
        resources = Resources(MemoryClient())
        await resources.create(joining)
        async with running(control_plane, resources):
            await asyncio.sleep(0.5)
            await resources.get(key)
        monkeypatch.setattr(nodes, "JOIN_SECONDS", 1.0)
        async with running(control_plane, resources):
            await resources.get(key)
            await until(lambda: is_gone(resources, key))

    asyncio.run(run())


def test_services_are_known_by_their_addresses(control_plane: ControlPlane, namespace: str) -> None:
    spec: dict[str, Any] = {
        "ports": [{"port": 80}],
        "selector": {"app": "web"},
        "type": "NodePort",
        "externalTrafficPolicy": "Local",
        "externalIPs": ["192.0.2.80"],
    }
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": spec,
    }
    headless = {
        **service,
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"ports": [{"port": 80}], "clusterIP": "None"},
    }
    key = ResourceKey("KubernetesService", "web", namespace)

    async def run() -> None:
        resources = Resources(MemoryClient())
        made = await on_thread(control_plane.create, service)
        await on_thread(control_plane.create, headless)
        async with running(control_plane, resources):
            found: Any = (await resources.get(key)).resource
            assert found.spec.cluster_ips == (made["spec"]["clusterIP"],)
            assert found.spec.external_ips == ("192.0.2.80",)
            assert found.spec.external_traffic_policy == "Local"
            listed = (await resources.list("KubernetesService", namespace)).items
            assert len(listed) == 1
            await on_thread(control_plane.delete, path_of(service))
            await until(lambda: is_gone(resources, key))

    asyncio.run(run())
