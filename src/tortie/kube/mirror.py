"""Resources that follow Kubernetes' objects: what should be stored against what is.

A mirror hears of both sides, in any order, and writes where they differ. Nothing is written or
removed before both have been read completely, so a fresh start never deletes what it has not
heard of yet.
"""

import contextlib
import logging
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

from tortie.datastore.resources import Resources, key_of
from tortie.kube.api import Kind, Name
from tortie.lib.errors import NotFound
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource
from tortie.model.validation import with_defaults

log = logging.getLogger(__name__)

Origin: TypeAlias = tuple[Kind, Name]


class Wanted(NamedTuple):
    content: object
    resource: Resource


class Mirror:
    """Owns some resources of one kind: those that `owns` says; nobody else writes them.

    Args:
        kind: of the resources.
        sources: kinds of the API that make them.
        changed: told each key that is to be reconciled.
    """

    def __init__(
        self,
        kind: str,
        sources: Collection[Kind],
        resources: Resources,
        owns: Callable[[ResourceKey], bool],
        changed: Callable[["Mirror", ResourceKey], None],
    ) -> None:
        self.kind = kind
        self._resources = resources
        self._owns = owns
        self._changed = changed
        self._made: dict[Origin, ResourceKey] = {}
        self._wanted: dict[ResourceKey, Wanted] = {}
        self._stored: dict[ResourceKey, object] = {}
        """Content; the very object that is wanted where they are equal, so that it is held once."""
        self._unlisted = set(sources)
        self._is_store_read = False

    # What Kubernetes says.

    def want(self, origin: Origin, resource: Resource | None) -> None:
        """What `origin` makes now; None: nothing."""
        before = self._made.pop(origin, None)
        key = None if resource is None else key_of(resource)
        if before is not None and before != key:
            self._wanted.pop(before, None)
            self._tell(before)
        if resource is not None and key is not None:
            self._made[origin] = key
            resource = with_defaults(resource)
            known, content = self._wanted.get(key), self.content(resource)
            if known is None or known.content != content:
                self._wanted[key] = Wanted(content, resource)
                self._share(key)
                self._tell(key)

    def listed(self, kind: Kind) -> None:
        """All origins of that kind are known."""
        if kind in self._unlisted:
            self._unlisted.discard(kind)
            if self.is_ready:
                self.look_at_all()

    # What the datastore says.

    def observe(self, key: ResourceKey, resource: Resource | None) -> None:
        """What is stored there, None if nothing or nothing readable."""
        if not self._owns(key):
            return
        if resource is None:
            self._stored.pop(key, None)
        else:
            self._stored[key] = self.content(resource)
            self._share(key)
        self._tell(key)

    def store_read(self) -> None:
        """Everything that is stored has been observed."""
        if not self._is_store_read:
            self._is_store_read = True
            if self.is_ready:
                self.look_at_all()

    @property
    def is_ready(self) -> bool:
        return self._is_store_read and not self._unlisted

    def wanted(self) -> list[Resource]:
        return [wanted.resource for wanted in self._wanted.values()]

    def origins_of(self, key: ResourceKey) -> list[Origin]:
        """Whose doing it is; for reports, not for speed."""
        return [origin for origin, made in self._made.items() if made == key]

    def look_at_all(self) -> None:
        """Compare everything once more; cheap where nothing differs."""
        for key in self._wanted.keys() | self._stored.keys():
            self._tell(key)

    async def reconcile(self, key: ResourceKey) -> None:
        """Make what is stored as it should be.

        Raises:
            TortieError: try again later.
        """
        if not self.is_ready:
            return
        wanted, stored = self._wanted.get(key), self._stored.get(key)
        if wanted is not None and wanted.content != stored:
            await self.write(wanted.resource)
        elif wanted is None and stored is not None:
            await self.remove(key)

    # What subclasses may see otherwise.

    def content(self, resource: Resource) -> object:
        """Equal for two resources between which nothing needs to be written."""
        return resource.metadata.labels, getattr(resource, "spec", None)

    async def write(self, resource: Resource) -> None:
        await self._resources.apply(resource)
        log.info("wrote", extra={"fields": {"resource": key_of(resource)}})

    async def remove(self, key: ResourceKey) -> None:
        with contextlib.suppress(NotFound):
            await self._resources.delete(key)
        log.info("deleted", extra={"fields": {"resource": key}})

    def _share(self, key: ResourceKey) -> None:
        wanted = self._wanted.get(key)
        if wanted is not None and self._stored.get(key) == wanted.content:
            self._stored[key] = wanted.content

    def _tell(self, key: ResourceKey) -> None:
        wanted = self._wanted.get(key)
        if self.is_ready and self._stored.get(key) != (wanted.content if wanted else None):
            self._changed(self, key)
