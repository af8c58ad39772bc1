"""One of several controllers works: who holds the Lease.

The holder renews it; whoever sees it unchanged for `LEASE_SECONDS` of its own clock takes it, by
replacing exactly the version it saw. Clocks of different machines are never compared.

Source: Kubernetes, coordination/v1 Lease; client-go tools/leaderelection (terms and times).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from tortie.kube.api import Api, Name
from tortie.kube.kinds import LEASES
from tortie.lib.backoff import spread_seconds
from tortie.lib.errors import AlreadyExists, Conflict, NotFound, TortieError
from tortie.model.kubernetes.fields import Object, mapping, text

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
GIVE_UP_SECONDS = 10.0
"""Without a renewal for so long we stop: before anybody else may begin."""


class Election:
    """
    Args:
        identity: of this process; no other has it.
    """

    def __init__(self, api: Api, name: Name, identity: str) -> None:
        self._api = api
        self._name = name
        self._identity = identity
        self._seen_revision = ""
        self._seen_at = float("-inf")

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait to be the holder, then run `work` for as long as we are; return when we are not.

        Raises:
            TortieError: what `work` raises.
        """
        while not await self._try_to_hold():  # noqa: ASYNC110 - another machine's event
            await asyncio.sleep(spread_seconds(RENEW_SECONDS / 2))
        log.info("leading", extra={"fields": {"lease": self._name, "as": self._identity}})
        working = asyncio.ensure_future(work())
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
            else:
                log.warning("not leading any more", extra={"fields": {"lease": self._name}})
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)

    async def step_down(self) -> None:
        """Let others in at once, if it is ours."""
        try:
            lease = await self._api.get(LEASES, self._name)
            if _holder(lease) == self._identity:
                await self._api.replace(LEASES, self._name, self._claimed(lease, ""))
        except TortieError as error:
            log.warning("the lease stays until it ends by itself: %s", error)

    async def _renew(self) -> None:
        """Return once it is lost, or may be by the time anybody could look."""
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while clock() - renewed < GIVE_UP_SECONDS:
            await asyncio.sleep(RENEW_SECONDS if clock() - renewed < RENEW_SECONDS else 1.0)
            started = clock()
            if await self._try_to_hold():
                renewed = started
            elif self._is_lost:
                return

    async def _try_to_hold(self) -> bool:
        self._is_lost = False
        try:
            try:
                lease = await self._api.get(LEASES, self._name)
            except NotFound:
                await self._api.create(LEASES, self._name, self._claimed({}, self._identity))
                return True
            holder = _holder(lease)
            if holder not in ("", self._identity) and not self._has_ended(lease):
                self._is_lost = True
                return False
            await self._api.replace(LEASES, self._name, self._claimed(lease, self._identity))
        except (Conflict, AlreadyExists):
            return False
        except TortieError as error:
            log.warning("the lease cannot be had: %s", error)
            return False
        return True

    def _has_ended(self, lease: Object) -> bool:
        now = asyncio.get_running_loop().time()
        revision = text(mapping(lease, "metadata"), "resourceVersion")
        if revision != self._seen_revision:
            self._seen_revision, self._seen_at = revision, now
        return now - self._seen_at > LEASE_SECONDS

    def _claimed(self, lease: Object, holder: str) -> Mapping[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = mapping(lease, "spec")
        changes = before.get("leaseTransitions") or 0
        spec = {
            **before,
            "holderIdentity": holder,
            "leaseDurationSeconds": int(LEASE_SECONDS),
            "renewTime": now,
        }
        if before.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": int(changes) + 1}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                **mapping(lease, "metadata"),
                "name": self._name.name,
                "namespace": self._name.namespace,
            },
            "spec": spec,
        }


def _holder(lease: Object) -> str:
    return text(mapping(lease, "spec"), "holderIdentity")
