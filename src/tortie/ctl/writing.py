"""Create, replace and apply differ in one call; the rest is here.

Everything is read and checked before anything is written, so wrong input changes nothing. What
then fails for one resource (it exists, it was changed by others) does not keep the rest from
being written, as with calicoctl.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import NamedTuple

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.datastore import bulk
from tortie.datastore.resources import Resources, Stored, key_of
from tortie.lib.errors import (
    AlreadyExists,
    Denied,
    InvalidField,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)
from tortie.model.documents import Document
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource
from tortie.model.policy import NetworkPolicySpec, ProfileSpec, unenforceable

READ_ONLY = frozenset({"ClusterInformation"})
"""Kinds that only the cluster itself writes."""

_FIRST = ("Tier", "IPPool", "Node", "Profile", "BGPFilter")
"""Kinds that others rest on, so they are written before and deleted after them."""

_FEW = 8
"""As many are written one by one; for more, what is there is listed first."""


class Way(Enum):
    """How to write: the word for done."""

    APPLY = "applied"
    CREATE = "created"
    REPLACE = "replaced"


class Outcome(NamedTuple):
    done: int
    errors: Sequence[str]


def run(way: Way, given: Given, screen: Screen) -> int:
    documents = in_order(access.read_files(given))
    refuse_read_only(documents, given.command.path)
    if not documents:
        screen.print("No resources specified")
        return 0
    for warning in warnings_about(documents):
        screen.warn(f"warning: {warning}")
    if given.text("dry-run", "none") == "client":
        from tortie.ctl.preview import client_lines

        screen.print(client_lines(documents))
        return 0

    async def act(resources: Resources) -> None:
        if given.has("dry-run") and given.text("dry-run") != "none":
            from tortie.ctl.preview import server_lines

            screen.print(await server_lines(resources, way, documents))
            return
        skip = given.has("skip-exists")
        outcome = await write(resources, way, documents, screen, skip_existing=skip)
        _report(way, given.command.path, documents, outcome, screen)
        if way is Way.APPLY:
            from tortie.ctl.selected import report

            await report(resources, documents, screen)
        if outcome.errors:
            raise InvalidInput(f"hit error: [{' '.join(outcome.errors)}]")

    access.with_resources(access.config_file(given), act)
    return 0


def warnings_about(documents: Sequence[Document]) -> Iterator[str]:
    """What may be stored and does not do what its author may think."""
    for document in documents:
        spec = getattr(document.resource, "spec", None)
        if isinstance(spec, NetworkPolicySpec | ProfileSpec):
            for way in ("Ingress", "Egress"):
                for text in unenforceable(spec, way):
                    yield f"{document.key}: {way.lower()} {text}"


def refuse_read_only(documents: Sequence[Document], verb: str) -> None:
    """
    Raises:
        InvalidInput: one of them is the cluster's own.
    """
    for document in documents:
        if document.key.kind in READ_ONLY:
            raise InvalidInput(
                f"{document.where}: operation {verb} is not supported on {document.key.kind}: "
                "resource is readonly"
            )


def in_order(documents: Sequence[Document]) -> list[Document]:
    """As in the files, but what others rest on first."""

    return sorted(documents, key=_rank)


def _rank(document: Document) -> int:
    kind = document.key.kind
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


async def write(
    resources: Resources,
    way: Way,
    documents: Sequence[Document],
    screen: Screen,
    *,
    skip_existing: bool = False,
) -> Outcome:
    """Write them all, or as many as can be.

    Raises:
        InvalidInput: they do not go together; nothing was written.
    """
    await initialize(resources)
    await check_together(resources, documents)
    one = _writer(resources, way, skip_existing=skip_existing)
    kinds = sorted({document.key.kind for document in documents})
    there = await bulk.known(resources, kinds) if len(documents) > _FEW else None
    done = 0
    errors: list[str] = []
    progress = screen.progress("writing", len(documents))
    try:
        for batch in _batches(documents):
            wanted = [document.resource for document in batch]
            results: Sequence[TortieError | None]
            if there is None or not _can_go_together(way, wanted, there):
                results = await asyncio.gather(*(bulk.attempt(one, each) for each in wanted))
            else:
                results = await bulk.write(resources, wanted, there, one)
            for document, error in zip(batch, results, strict=True):
                if error is None:
                    done += 1
                else:
                    errors.append(access.told(error, document.key))
            progress.step(len(batch))
            if any(isinstance(error, (Unavailable, Denied)) for error in results):
                break  # it would be the same for the rest
    finally:
        progress.wipe()
    return Outcome(done, errors)


async def check_together(resources: Resources, documents: Sequence[Document]) -> None:
    """
    Raises:
        InvalidInput: they do not go together; says where in the file, if it is about a field.
    """
    try:
        await resources.check_together([document.resource for document in documents])
    except InvalidField as error:
        for document in documents:
            if str(document.key) == error.name:
                raise InvalidInput(document.item.at(error.path, str(error))) from None
        raise


def _batches(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """In order; those of one batch do not rest on one another."""
    for rank, alike in groupby(documents, _rank):
        of_rank = list(alike)
        # A new pool is compared with those that are there.
        size = 1 if rank == _FIRST.index("IPPool") else bulk.BATCH
        for start in range(0, len(of_rank), size):
            yield of_rank[start : start + size]


def _can_go_together(
    way: Way, batch: Sequence[Resource], there: Mapping[ResourceKey, Stored[Resource]]
) -> bool:
    """Whether nothing is known yet that makes one of them fail, or that needs a closer look."""
    if any(one.metadata.resource_version for one in batch):
        return False
    known = {key_of(one) in there for one in batch}
    return way is Way.APPLY or known == {way is Way.REPLACE}


def _report(
    way: Way, verb: str, documents: Sequence[Document], outcome: Outcome, screen: Screen
) -> None:
    kind = access.single_kind([document.key.kind for document in documents])
    if not outcome.errors:
        screen.print(access.success(way.value, outcome.done, kind))
    elif outcome.done:
        screen.print(access.partial(way.value, outcome.done, len(documents), kind))
    else:
        raise InvalidInput(access.failure(verb, len(documents), kind, outcome.errors))


def _writer(resources: Resources, way: Way, *, skip_existing: bool) -> bulk.OneByOne:
    if way is Way.REPLACE:
        return resources.update
    if way is Way.APPLY:
        return resources.apply

    async def create(resource: Resource) -> None:
        try:
            await resources.create(resource)
        except AlreadyExists:
            if not skip_existing:
                raise

    return create


async def initialize(resources: Resources) -> None:
    """A new datastore gets its tiers now, if no agent was there first."""
    try:
        await resources.get(ResourceKey("ClusterInformation", "default"))
    except NotFound:
        await resources.ensure_initialized()
