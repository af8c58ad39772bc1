"""Addresses that nobody has any more, given back once that is proved twice.

A node's own agent sees to its own leaks. Here are those that no agent can see to: of hosts that
have no Node any more, and of pods that Kubernetes does not know, on nodes whose agent is away.

For each the first proof is that no endpoint anywhere has the address. The second is the host's
missing Node; or that the API server lists no such pod on that node, and, asked for it by name,
says the same. What is found must be the very same allocation a grace period later.

Source: Calico, design/ipam/ipam-gc.md.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tortie.datastore.client import Client
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import Allocation, Leak, hosts_gone, leaked, seen_twice
from tortie.ipam.inventory import read_inventory
from tortie.ipam.ownership import release_leak
from tortie.kube.api import Api, Name
from tortie.kube.kinds import PODS
from tortie.lib.backoff import spread_seconds
from tortie.lib.errors import NotFound, TortieError
from tortie.model.kubernetes.fields import mapping, text

log = logging.getLogger(__name__)


class PodsGone(NamedTuple):
    """Allocations for pods that are not where they were.

    Those of other network plugins are left out: not only Kubernetes may be using them.
    """

    hosts: Mapping[str, str]
    """Our name of each node of Kubernetes → its name there. Others are not judged."""
    nodes: Mapping[Name, str]
    """Every pod that there is → its node, by Kubernetes' name."""
    reason: str = "Kubernetes has no such pod there"
    includes_foreign: bool = False

    def proves(self, allocation: Allocation) -> bool:
        pod, node = pod_of(allocation), self.hosts.get(allocation.node)
        return pod is not None and node is not None and self.nodes.get(pod) != node


class LeakCollector:
    """
    Args:
        hosts: our name of each node of Kubernetes → its name there.
    """

    def __init__(
        self, client: Client, api: Api, pods: "Pods", hosts: Callable[[], Mapping[str, str]]
    ) -> None:
        self._client = client
        self._api = api
        self._pods = pods
        self._hosts = hosts
        self._allocator = Allocator(client, "")
        self._seen: list[Leak] = []

    async def run(self, grace_seconds: float) -> None:
        """Look once per grace period."""
        while True:
            try:
                for leak in await self.collect():
                    fields = {"handle": leak.handle_id, "reason": leak.reason}
                    log.warning("released what had leaked", extra={"fields": fields})
            except TortieError as error:
                log.warning("leaks cannot be looked for: %s", error)
            await asyncio.sleep(spread_seconds(max(grace_seconds, 1.0)))

    async def collect(self) -> list[Leak]:
        """Look once; release what the last look saw, too, and return it."""
        state = await read_inventory(self._client)
        found = {leak.handle_id: leak for leak in leaked(state, hosts_gone(state))}
        by_host = set(found)
        if (pods := self._pods.nodes()) is not None:
            for leak in leaked(state, PodsGone(self._hosts(), pods)):
                found.setdefault(leak.handle_id, leak)
        leaks = [*found.values()]
        proved = seen_twice(leaks, self._seen)
        self._seen = leaks
        return [
            leak
            for leak in proved
            if (leak.handle_id in by_host or await self._is_gone(leak))
            and await release_leak(self._allocator, leak)
        ]

    async def _is_gone(self, leak: Leak) -> bool:
        """Asked of the server itself, not of what we remember."""
        for allocation in leak.allocations:
            name = pod_of(allocation)
            if name is None:
                return False
            try:
                pod = await self._api.get(PODS, name)
            except NotFound:
                continue
            if text(mapping(pod, "spec"), "nodeName") == self._hosts().get(allocation.node):
                return False
        return True


class Pods:
    """Where each pod is; a `reflector.Sink` for pods."""

    def __init__(self) -> None:
        self._nodes: dict[Name, str] = {}
        self._is_listed = False

    def nodes(self) -> Mapping[Name, str] | None:
        return self._nodes if self._is_listed else None

    def seen(self, name: Name, node: str) -> None:
        self._nodes[name] = node

    def gone(self, name: Name) -> None:
        self._nodes.pop(name, None)

    def listed(self) -> None:
        self._is_listed = True


def pod_of(allocation: Allocation) -> Name | None:
    """For which pod it was made; None: for something else, or nobody said."""
    said = allocation.attribute.secondary or {}
    namespace, pod = said.get("namespace", ""), said.get("pod", "")
    return Name(namespace, pod) if namespace and pod and allocation.node else None
