"""All controllers of a cluster: what the API says and what is stored, brought together.

    API server ──Reflector──►┐                        ┌► Mirror (policies, profiles, pods, …)
                             ├─► here: convert, route ┤                 │ what differs
    datastore ──Syncer──────►┘                        └► NodeController ▼
                                                              Queue ──► datastore

Level-triggered throughout: every event says only what to look at again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from tortie.datastore.resources import Resources, key_of
from tortie.datastore.syncer import Status, Syncer, Update
from tortie.ipam.choice import PoolExhausted
from tortie.kube import kinds
from tortie.kube.api import Api, Kind, Name
from tortie.kube.leaks import LeakCollector, Pods
from tortie.kube.load_balancer import LoadBalancer
from tortie.kube.mirror import Mirror, Origin
from tortie.kube.nodes import NodeController, is_automatic
from tortie.kube.pods import PodMirror
from tortie.kube.policies import PolicyMirror
from tortie.kube.queue import Queue
from tortie.kube.reflector import Reflector
from tortie.kube.reports import Reports, quietly
from tortie.kube.settings import Settings
from tortie.lib.errors import InvalidInput, TortieError
from tortie.model import codec
from tortie.model.keys import PLURALS, RESOURCES, ResourceKey, parse_key
from tortie.model.kubernetes.cluster_policy import NAME_PREFIXES as CLUSTER_POLICY_PREFIXES
from tortie.model.kubernetes.cluster_policy import equal_orders
from tortie.model.kubernetes.fields import Object, mapping, text
from tortie.model.metadata import Resource
from tortie.model.node import Node
from tortie.model.policy import GlobalNetworkPolicy

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """Something to bring up to date."""

    owner: "Mirror | NodeController | LoadBalancer | Reports"
    key: "ResourceKey | Name | str | tuple[Kind, Name]"

    def __str__(self) -> str:
        if isinstance(self.key, tuple) and not isinstance(self.key, Name):
            return " ".join(map(str, self.key))
        return str(self.key)


class Controllers:
    """`run` it while leading."""

    def __init__(self, api: Api, resources: Resources, settings: Settings) -> None:
        self._api = api
        self._resources = resources
        self._settings = settings
        self._queue: Queue[Item] = Queue(self._work)
        self._reports = Reports(api)
        self._mirrors: dict[Kind, Mirror] = {}
        """Kind of the API → who takes what is made of it."""
        self._by_resource: dict[str, list[Mirror]] = {}
        self._nodes: NodeController | None = None
        self._balancer: LoadBalancer | None = None
        self._pods = Pods()
        self._failed: dict[Item, str] = {}
        """What an object asks for and cannot have (storing it, an address), and why."""
        self._equal_orders: set[str] = set()
        self.ready = asyncio.Event()
        """Both sides have been read completely."""
        self._build()

    # --- life ---

    async def run(self) -> None:
        """Until cancelled."""
        await self._resources.ensure_initialized("k8s")
        prefixes = [f"{RESOURCES}{PLURALS[kind]}/" for kind in self._stored_kinds]
        syncer = Syncer(self._resources.client, prefixes, self)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.run())
            tasks.create_task(syncer.run())
            for kind in self._api_kinds:
                tasks.create_task(Reflector(self._api, kind, self, kinds.OLDER.get(kind)).run())
            tasks.create_task(self._resync())
            if self._nodes is not None:
                leaks = self.leak_collector()
                tasks.create_task(leaks.run(self._settings.leak_grace_seconds))

    def leak_collector(self) -> LeakCollector:
        hosts = self._node_controller.kube_names
        return LeakCollector(self._resources.client, self._api, self._pods, hosts)

    async def settled(self) -> None:
        """Wait until everything was read and what differed has been written once."""
        await self.ready.wait()
        await self._queue.drained()

    async def _resync(self) -> None:
        await self.ready.wait()
        while True:
            if self._balancer is not None:
                with contextlib.suppress(TortieError):  # what is left is found the next time
                    await self._balancer.collect()
            await asyncio.sleep(self._settings.resync_seconds)
            self._look_at_all()

    def _look_at_all(self) -> None:
        for mirror in self._all_mirrors():
            if mirror.is_ready:
                mirror.look_at_all()
        if self._nodes is not None:
            self._nodes.look_at_all()
        if self._balancer is not None:
            self._balancer.look_at_all()

    # --- what the API says (reflector.Sink) ---

    def seen(self, kind: Kind, name: Name, object_: Object) -> None:
        try:
            if kind == kinds.NODES and self._nodes is not None:
                self._nodes.seen(name, object_)
            elif kind == kinds.PODS:
                self._pods.seen(name, text(mapping(object_, "spec"), "nodeName"))
            elif kind == kinds.SERVICES and self._balancer is not None:
                self._balancer.seen(name, object_)
            if (mirror := self._mirrors.get(kind)) is not None:
                made = kinds.convert(kind, object_)
                mirror.want((kind, name), made.resource)
                if kind in kinds.CLUSTER_POLICIES:
                    self._warn_of_equal_orders(mirror)
                asked = [Item(mirror, key_of(made.resource))] if made.resource else []
                if kind == kinds.SERVICES and self._balancer is not None:
                    asked.append(Item(self._balancer, name))
                failed = tuple(self._failed[item] for item in asked if item in self._failed)
                self._report(kind, name, object_, (*made.problems, *failed))
        except InvalidInput as error:
            # What was made of it before stands no more: it counts as absent.
            if (mirror := self._mirrors.get(kind)) is not None:
                mirror.want((kind, name), None)
            self._report(kind, name, object_, (str(error),))

    def gone(self, kind: Kind, name: Name) -> None:
        self._reports.forget(kind, name)
        if kind == kinds.NODES and self._nodes is not None:
            self._nodes.gone(name)
        elif kind == kinds.PODS:
            self._pods.gone(name)
        elif kind == kinds.SERVICES and self._balancer is not None:
            self._balancer.gone(name)
        if (mirror := self._mirrors.get(kind)) is not None:
            mirror.want((kind, name), None)

    def listed(self, kind: Kind) -> None:
        log.info("listed", extra={"fields": {"kind": kind}})
        if kind == kinds.NODES and self._nodes is not None:
            self._nodes.listed()
        elif kind == kinds.PODS:
            self._pods.listed()
        elif kind == kinds.SERVICES and self._balancer is not None:
            self._balancer.listed()
        if (mirror := self._mirrors.get(kind)) is not None:
            mirror.listed(kind)
        self._check_ready()

    def _warn_of_equal_orders(self, mirror: Mirror) -> None:
        """Kubernetes leaves open which of them is asked first."""
        policies = [one for one in mirror.wanted() if isinstance(one, GlobalNetworkPolicy)]
        found = set(equal_orders(policies))
        for text_ in sorted(found - self._equal_orders):
            log.warning("%s", text_)
        self._equal_orders = found

    # --- what is stored (syncer.Sink) ---

    async def on_updates(self, updates: Sequence[Update]) -> None:
        for update in updates:
            key = parse_key(update.key)
            if isinstance(key, ResourceKey):
                resource = None if update.value is None else _decoded(key, update.value)
                if key.kind == "Node" and self._nodes is not None:
                    self._nodes.observe(key, resource if isinstance(resource, Node) else None)
                for mirror in self._by_resource.get(key.kind, ()):
                    mirror.observe(key, resource)

    def on_status(self, status: Status) -> None:
        log.info("datastore %s", status.value)
        if status is Status.IN_SYNC:
            if self._nodes is not None:
                self._nodes.store_read()
            for mirror in self._all_mirrors():
                mirror.store_read()
            self._check_ready()

    def _check_ready(self) -> None:
        parts: list[Mirror | NodeController | LoadBalancer] = [*self._all_mirrors()]
        parts += [part for part in (self._nodes, self._balancer) if part is not None]
        if all(part.is_ready for part in parts):
            self.ready.set()

    # --- work ---

    async def _work(self, item: Item) -> None:
        if isinstance(item.owner, Reports):
            assert isinstance(item.key, tuple)
            kind, name = item.key
            assert isinstance(kind, Kind)
            assert isinstance(name, Name)
            await quietly(item.owner, kind, name)
        elif isinstance(item.owner, NodeController):
            assert isinstance(item.key, str)
            await item.owner.reconcile(item.key)
        elif isinstance(item.owner, LoadBalancer):
            assert isinstance(item.key, Name)
            await self._attempt(item, item.owner.reconcile(item.key))
        else:
            assert isinstance(item.key, ResourceKey)
            await self._attempt(item, item.owner.reconcile(item.key))

    async def _attempt(self, item: Item, work: Awaitable[None]) -> None:
        """Whoever made the object has to know if what it asks for cannot be done."""
        try:
            await work
        except (InvalidInput, PoolExhausted) as error:
            await self._set_failed(item, str(error))
            raise
        if item in self._failed:
            await self._set_failed(item, "")

    async def _set_failed(self, item: Item, problem: str) -> None:
        if self._failed.pop(item, "") != problem:
            for kind, name in self._origins(item):
                await self._say(kind, name, (problem,) if problem else ())
        if problem:
            self._failed[item] = problem

    def _origins(self, item: Item) -> list[Origin]:
        if isinstance(item.owner, Mirror):
            assert isinstance(item.key, ResourceKey)
            return item.owner.origins_of(item.key)
        assert isinstance(item.key, Name)
        return [(kinds.SERVICES, item.key)]

    async def _say(self, kind: Kind, name: Name, problems: tuple[str, ...]) -> None:
        """Report on an object as it is now."""
        with contextlib.suppress(TortieError):
            self._report(kind, name, await self._api.get(kind, name), problems)

    def _report(self, kind: Kind, name: Name, object_: Object, problems: tuple[str, ...]) -> None:
        if self._reports.note(kind, name, object_, problems):
            self._queue.add(Item(self._reports, (kind, name)))

    # --- which there are ---

    def _build(self) -> None:
        enabled = self._settings.controllers
        if "policy" in enabled:
            policies = PolicyMirror(self._api, self._resources, self._changed, self._change_later)
            self._add(policies, (kinds.NETWORK_POLICIES,))
            # What rules that name services rest on, and what hosts announce by BGP.
            self._mirror("KubernetesService", (kinds.SERVICES,), lambda _: True)
            self._mirror("KubernetesEndpointSlice", (kinds.ENDPOINT_SLICES,), lambda _: True)
            self._mirror("GlobalNetworkPolicy", kinds.CLUSTER_POLICIES, _is_cluster_policy)
        if "namespace" in enabled:
            self._mirror("Profile", (kinds.NAMESPACES,), lambda key: key.name.startswith("kns."))
        if "serviceaccount" in enabled:
            self._mirror(
                "Profile", (kinds.SERVICE_ACCOUNTS,), lambda key: key.name.startswith("ksa.")
            )
        if "workloadendpoint" in enabled:
            self._add(PodMirror(self._resources, self._changed), (kinds.PODS,))
        if "node" in enabled:
            templates = self._settings.host_endpoint_templates
            # Without templates it wants none, and so removes those that it once made.
            host_endpoints = Mirror(
                "HostEndpoint", (kinds.NODES,), self._resources, is_automatic, self._changed
            )
            self._add(host_endpoints, ())
            self._nodes = NodeController(
                self._api,
                self._resources,
                lambda name: self._queue.add(Item(self._node_controller, name)),
                lambda name, seconds: self._queue.add_later(
                    Item(self._node_controller, name), seconds
                ),
                syncs_labels=self._settings.syncs_labels,
                host_endpoints=host_endpoints,
                templates=templates,
            )

        if "loadbalancer" in enabled:
            self._balancer = LoadBalancer(
                self._api,
                self._resources,
                lambda name: self._queue.add(Item(self._load_balancer, name)),
                everything=self._settings.assigns_all_services,
            )

    def _mirror(
        self, kind: str, sources: Sequence[Kind], owns: Callable[[ResourceKey], bool]
    ) -> None:
        self._add(Mirror(kind, sources, self._resources, owns, self._changed), sources)

    def _add(self, mirror: Mirror, sources: Sequence[Kind]) -> None:
        for source in sources:
            self._mirrors[source] = mirror
        self._by_resource.setdefault(mirror.kind, []).append(mirror)

    def _changed(self, mirror: Mirror, key: ResourceKey) -> None:
        self._queue.add(Item(mirror, key))

    def _change_later(self, mirror: Mirror, key: ResourceKey, seconds: float) -> None:
        self._queue.add_later(Item(mirror, key), seconds)

    @property
    def _load_balancer(self) -> LoadBalancer:
        assert self._balancer is not None
        return self._balancer

    @property
    def _node_controller(self) -> NodeController:
        assert self._nodes is not None
        return self._nodes

    def _all_mirrors(self) -> list[Mirror]:
        return [mirror for mirrors in self._by_resource.values() for mirror in mirrors]

    @property
    def _api_kinds(self) -> list[Kind]:
        more = [kinds.NODES, kinds.PODS] if self._nodes is not None else []
        more += [kinds.SERVICES] if self._balancer is not None else []
        return [*dict.fromkeys([*self._mirrors, *more])]

    @property
    def _stored_kinds(self) -> list[str]:
        more = ["Node"] if self._nodes is not None else []
        return [*dict.fromkeys([*self._by_resource, *more])]


def _is_cluster_policy(key: ResourceKey) -> bool:
    return key.name.startswith(CLUSTER_POLICY_PREFIXES)


def _decoded(key: ResourceKey, raw: bytes) -> Resource | None:
    """None for what nobody can read: it is written anew if it is ours."""
    try:
        value = codec.decode(key, raw)
    except InvalidInput as error:
        log.warning("stored object is not valid: %s: %s", key, error)
        return None
    return value if isinstance(value, Resource) else None
