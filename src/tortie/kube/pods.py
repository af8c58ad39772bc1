"""Pods' labels, ports and profiles onto their endpoints, which the CNI plugin has made.

An endpoint is made and removed where the pod runs; only what may change while it runs is
kept up to date here. Addresses are never touched.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import cast

import msgspec

from tortie.datastore.resources import Resources, key_of
from tortie.kube.kinds import PODS
from tortie.kube.mirror import Mirror
from tortie.lib.errors import NotFound
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource

log = logging.getLogger(__name__)


class PodMirror(Mirror):
    def __init__(
        self, resources: Resources, changed: Callable[[Mirror, ResourceKey], None]
    ) -> None:
        super().__init__("WorkloadEndpoint", (PODS,), resources, is_pods, changed)

    def content(self, resource: Resource) -> object:
        spec = cast(WorkloadEndpoint, resource).spec
        return resource.metadata.labels, spec.ports, spec.profiles, spec.service_account_name

    async def write(self, resource: Resource) -> None:
        key = key_of(resource)
        wanted = cast(WorkloadEndpoint, resource)
        with contextlib.suppress(NotFound):  # not made yet, or gone: its maker knows best
            stored = cast(WorkloadEndpoint, (await self._resources.get(key)).resource)
            await self._resources.update(_updated(stored, wanted))
            log.info("wrote", extra={"fields": {"resource": key}})

    async def remove(self, key: ResourceKey) -> None:
        """The plugin's DEL removes it, or its host's agent, or the deletion of its node."""


def is_pods(key: ResourceKey) -> bool:
    """Is this endpoint a pod's?"""
    return "-k8s-" in key.name


def _updated(stored: WorkloadEndpoint, wanted: WorkloadEndpoint) -> WorkloadEndpoint:
    spec = msgspec.structs.replace(
        stored.spec,
        ports=wanted.spec.ports,
        profiles=wanted.spec.profiles,
        service_account_name=wanted.spec.service_account_name,
    )
    metadata = msgspec.structs.replace(stored.metadata, labels=wanted.metadata.labels)
    return msgspec.structs.replace(stored, metadata=metadata, spec=spec)
