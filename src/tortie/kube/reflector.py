"""List, then watch, for ever: one kind of object as the API server has it.

    list, page by page ──► sink.seen each, then sink.listed ──► watch ──┐
        ▲            410 Gone, or the watch cannot be read               │ bookmarks carry us on
        └────────────────────────────────────────────────────────────────┘

Nothing is kept here but names: what an object means belongs to the sink. A list replaces all
that was said before, so that whatever was missed is made good.
"""

import asyncio
import logging
from contextlib import aclosing
from typing import Protocol

from tortie.kube.api import Api, Kind, Name, name_of
from tortie.lib.backoff import Backoff, spread_seconds
from tortie.lib.errors import Compacted, Denied, InvalidInput, NotFound, TortieError, Unavailable
from tortie.model.kubernetes.fields import Object, mapping, text

log = logging.getLogger(__name__)

UNSERVED_SECONDS = 60.0
"""Between questions whether the server knows a kind by now."""


class Sink(Protocol):
    """Level-triggered: the same object may be seen twice. Must not wait."""

    def seen(self, kind: Kind, name: Name, object_: Object) -> None: ...

    def gone(self, kind: Kind, name: Name) -> None: ...

    def listed(self, kind: Kind) -> None:
        """A complete list was seen, and what it lacks was reported gone."""
        ...


class Reflector:
    """Reads one kind into a sink. `run` it as one task.

    Args:
        older: asked for where the server does not know `kind`; the sink hears `kind` all the same.
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        sink: Sink,
        older: Kind | None = None,
        unserved_seconds: float = UNSERVED_SECONDS,
    ) -> None:
        self._api = api
        self._kind = kind
        self._versions = [kind, *([older] if older else [])]
        self._sink = sink
        self._unserved_seconds = unserved_seconds
        self._backoff = Backoff(0.2, 10.0)
        self._names: set[Name] = set()
        self._revision = ""
        """Of the last thing seen; empty means list anew."""
        self._said = ""

    async def run(self) -> None:
        while True:
            try:
                if not self._revision:
                    await self._list()
                    self._said = ""
                await self._watch()
            except Compacted:
                self._revision = ""
            except NotFound:
                self._revision = ""
                self._versions.append(self._versions.pop(0))
                if self._versions[0] != self._kind:
                    continue
                # Custom resources come and go; that there is no such kind is an answer, too.
                self._replace(set())
                await asyncio.sleep(spread_seconds(self._unserved_seconds))
            except (Unavailable, Denied, InvalidInput) as error:
                self._complain(error)
                await asyncio.sleep(self._backoff.next_seconds())

    async def _list(self) -> None:
        names: set[Name] = set()
        rest = ""
        while True:
            page = await self._api.list(self._versions[0], rest)
            for object_ in page.items:
                name = name_of(object_)
                names.add(name)
                self._names.add(name)
                self._sink.seen(self._kind, name, object_)
            rest = page.rest
            if not rest:
                break
            await asyncio.sleep(0)  # let others run: a page is some milliseconds of work
        self._replace(names)
        self._revision = page.revision
        self._backoff.reset()

    async def _watch(self) -> None:
        started = asyncio.get_running_loop().time()
        async with aclosing(self._api.watch(self._versions[0], self._revision)) as changes:
            async for change in changes:
                source = mapping(change.object, "metadata")
                if change.type != "BOOKMARK":
                    name = name_of(change.object)
                    if change.type == "DELETED":
                        self._names.discard(name)
                        self._sink.gone(self._kind, name)
                    else:
                        self._names.add(name)
                        self._sink.seen(self._kind, name, change.object)
                self._revision = text(source, "resourceVersion")
                self._backoff.reset()
        if asyncio.get_running_loop().time() - started < 1.0:
            await asyncio.sleep(self._backoff.next_seconds())  # it ends each watch at once

    def _replace(self, names: set[Name]) -> None:
        for name in self._names - names:
            self._sink.gone(self._kind, name)
        self._names = names
        self._sink.listed(self._kind)

    def _complain(self, error: TortieError) -> None:
        """Once per trouble, not once per try."""
        if str(error) != self._said:
            log.warning("%s cannot be read, will try again: %s", self._kind, error)
            self._said = str(error)
