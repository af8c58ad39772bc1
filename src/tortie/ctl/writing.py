"""Create, replace and apply differ in one call; the rest is here.

Everything is read and checked before anything is written, so wrong input changes nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import TextIO

from tortie.ctl import command
from tortie.datastore.resources import Resources, Stored, key_of
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound, TortieError
from tortie.model.documents import Document
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource

READ_ONLY = frozenset({"ClusterInformation"})
"""Kinds that only the cluster itself writes."""

_FIRST = ("Tier", "IPPool", "Node", "Profile")
"""Kinds that others rest on, so they are written before and deleted after them."""


class Way(Enum):
    """How to write: the word for done."""

    APPLY = "applied"
    CREATE = "created"
    REPLACE = "replaced"


def run(way: Way, verb: str, summary: str, argv: Sequence[str], out: TextIO) -> int:
    parser = command.parser(verb, summary)
    command.add_file_arguments(parser, required=True)
    command.add_namespace_argument(parser)
    if way is Way.CREATE:
        parser.add_argument(
            "--skip-exists", action="store_true", help="what exists already is no error"
        )
    arguments = parser.parse_args(argv)
    documents = in_order(command.read_files(arguments))
    for document in documents:
        if document.key.kind in READ_ONLY:
            raise InvalidInput(f"{document.where}: {document.key.kind} cannot be written by hand")
    if not documents:
        print("No resources specified", file=out)
        return 0
    skip = way is Way.CREATE and arguments.skip_exists

    async def act(resources: Resources) -> None:
        await write(resources, way, documents, out, skip_existing=skip)

    command.with_resources(arguments.config, act)
    return 0


def in_order(documents: Sequence[Document]) -> list[Document]:
    """As in the files, but what others rest on first."""

    def rank(document: Document) -> int:
        kind = document.key.kind
        return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)

    return sorted(documents, key=rank)


async def write(
    resources: Resources,
    way: Way,
    documents: Sequence[Document],
    out: TextIO,
    *,
    skip_existing: bool = False,
) -> None:
    """
    Raises:
        TortieError: says how many were written before it.
    """
    await _initialize(resources)
    if way is not Way.APPLY:
        documents = await _check_existence(resources, way, documents, skip_existing)
    await resources.check_together([document.resource for document in documents])
    done: list[str] = []
    one = _writer(resources, way)
    for document in documents:
        try:
            await one(document.resource)
        except TortieError:
            if done:
                count = command.count_of([d.key.kind for d in documents])
                print(
                    f"Partial success: {way.value} the first {len(done)} out of {count}:", file=out
                )
            raise
        done.append(document.key.kind)
    if done:
        print(f"Successfully {way.value} {command.count_of(done)}", file=out)


def _writer(resources: Resources, way: Way) -> Callable[[Resource], Awaitable[Stored[Resource]]]:
    if way is Way.CREATE:
        return resources.create
    return resources.update if way is Way.REPLACE else resources.apply


async def _initialize(resources: Resources) -> None:
    """A new datastore gets its tiers now, if no agent was there first."""
    try:
        await resources.get(ResourceKey("ClusterInformation", "default"))
    except NotFound:
        await resources.ensure_initialized()


async def _check_existence(
    resources: Resources, way: Way, documents: Sequence[Document], skip_existing: bool
) -> list[Document]:
    """Before anything is written: create needs names that are free, replace taken ones."""
    kept: list[Document] = []
    for document in documents:
        key = key_of(document.resource)
        exists = await _exists(resources, key)
        if way is Way.REPLACE and not exists:
            raise NotFound(f"{document.where}: {key} does not exist; nothing was replaced")
        if way is Way.CREATE and exists:
            if not skip_existing:
                raise AlreadyExists(
                    f"{document.where}: {key} already exists; nothing was created "
                    "(tortie apply would change it)"
                )
            continue
        kept.append(document)
    return kept


async def _exists(resources: Resources, key: ResourceKey) -> bool:
    try:
        await resources.get_entry(key)
    except NotFound:
        return False
    return True
