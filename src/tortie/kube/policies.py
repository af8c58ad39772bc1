"""NetworkPolicies, which stay in force for as long as the pods of a namespace that ends.

Kubernetes deletes what is in a namespace in any order, policies before pods as it happens. A pod
that takes its time to end would be open to everybody meanwhile (CVE-2024-7598). So the policy of
a namespace that is being deleted, or is gone, is kept while endpoints of its pods are stored.
"""

import logging
from collections.abc import Callable

from tortie.datastore.resources import Resources
from tortie.kube.api import Api, Name
from tortie.kube.kinds import NAMESPACES, NETWORK_POLICIES
from tortie.kube.mirror import Mirror
from tortie.kube.pods import is_pods
from tortie.lib.errors import NotFound
from tortie.model.keys import PLURALS, RESOURCES, ResourceKey, parse_key
from tortie.model.kubernetes.fields import mapping
from tortie.model.kubernetes.network_policy import NAME_PREFIX

log = logging.getLogger(__name__)

HOLD_SECONDS = 1.0
"""Between looks whether the last pod has gone."""


class PolicyMirror(Mirror):
    """
    Args:
        later: have a key reconciled again after so many seconds.
    """

    def __init__(
        self,
        api: Api,
        resources: Resources,
        changed: Callable[[Mirror, ResourceKey], None],
        later: Callable[[Mirror, ResourceKey, float], None],
    ) -> None:
        super().__init__(
            "NetworkPolicy",
            (NETWORK_POLICIES,),
            resources,
            lambda key: key.name.startswith(NAME_PREFIX),
            changed,
        )
        self._api = api
        self._later = later
        self._held: set[ResourceKey] = set()

    async def remove(self, key: ResourceKey) -> None:
        if await self._ends(key.namespace) and await self._has_pods(key.namespace):
            if key not in self._held:
                log.info("held until the last pod ends", extra={"fields": {"resource": key}})
            self._held.add(key)
            self._later(self, key, HOLD_SECONDS)
            return
        self._held.discard(key)
        await super().remove(key)

    async def _ends(self, namespace: str) -> bool:
        """Asked anew: news of a namespace may come after news of what was in it."""
        try:
            found = await self._api.get(NAMESPACES, Name("", namespace))
        except NotFound:
            return True
        return bool(mapping(found, "metadata").get("deletionTimestamp"))

    async def _has_pods(self, namespace: str) -> bool:
        prefix = f"{RESOURCES}{PLURALS['WorkloadEndpoint']}/{namespace}/"
        listing = await self._resources.client.list(prefix, keys_only=True)
        keys = (parse_key(entry.key) for entry in listing.entries)
        return any(isinstance(key, ResourceKey) and is_pods(key) for key in keys)
