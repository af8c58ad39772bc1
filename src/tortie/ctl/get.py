"""`tortie get`: show resources."""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from tortie.ctl import command, printing, selection
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput
from tortie.model.documents import DEFAULT_NAMESPACE
from tortie.model.keys import NAMESPACED, ResourceKey
from tortie.model.metadata import Resource
from tortie.model.policy import Tier


class Answer(NamedTuple):
    resources: list[Resource]
    unreadable: list[str]


def main(argv: Sequence[str], out: TextIO) -> int:
    arguments = _parse(argv)
    wanted, chosen = _wanted(arguments)

    async def act(resources: Resources) -> Answer:
        return await read(resources, arguments, wanted, chosen)

    answer = command.with_resources(arguments.config, act)
    for problem in answer.unreadable:
        print(f"tortie: left out, because it is not valid: {problem}", file=sys.stderr)
    found = answer.resources
    if arguments.export:
        found = [printing.exported(resource) for resource in found]
    text = _shown(arguments, chosen, found)
    if text:
        print(text, file=out)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("get", "show resources, by kind and name or from files")
    parser.add_argument(
        "what", nargs="*", metavar="KIND [NAME ...] | KIND/NAME ...", help="what to show"
    )
    command.add_file_arguments(parser, required=False)
    command.add_namespace_argument(parser)
    parser.add_argument(
        "-A", "-a", "--all-namespaces", action="store_true", help="of every namespace"
    )
    parser.add_argument(
        "-o", "--output", metavar="FORMAT", default="ps", help=", ".join(printing.FORMATS)
    )
    parser.add_argument("--export", action="store_true", help="without what is this cluster's own")
    arguments = parser.parse_args(argv)
    if arguments.output not in printing.FORMATS:
        formats = ", ".join(printing.FORMATS)
        raise InvalidInput(f"unknown output format {arguments.output!r}; there are: {formats}")
    if arguments.namespace and arguments.all_namespaces:
        raise InvalidInput("-n and -A cannot go together")
    if arguments.files and arguments.what:
        raise InvalidInput("give kinds and names, or files with -f, not both")
    return arguments


def _wanted(
    arguments: argparse.Namespace,
) -> tuple[list[ResourceKey], list[selection.Selection]]:
    """Keys to get one by one, and what was selected on the command line."""
    if arguments.files:
        return [d.key for d in command.read_files(arguments, complete=False)], []
    chosen = selection.parse(arguments.what)
    named = any(s.names for s in chosen if s.kind in NAMESPACED)
    if arguments.all_namespaces and named:
        raise InvalidInput("a name needs one namespace: use -n instead of -A")
    return [key for s in chosen for key in selection.keys(s, arguments.namespace)], chosen


async def read(
    resources: Resources,
    arguments: argparse.Namespace,
    wanted: Sequence[ResourceKey],
    chosen: Sequence[selection.Selection],
) -> Answer:
    answer = Answer([], [])
    for key in wanted:
        answer.resources.append((await resources.get(key)).resource)
    for selected in chosen:
        if selected.names is not None:
            continue
        namespace = None
        if selected.kind in NAMESPACED and not arguments.all_namespaces:
            namespace = arguments.namespace or DEFAULT_NAMESPACE
        found = await resources.list(selected.kind, namespace)
        listed = [stored.resource for stored in found.items]
        answer.resources.extend(sorted(listed, key=_evaluation_order))
        answer.unreadable.extend(found.unreadable)
    return answer


def _evaluation_order(resource: Resource) -> float:
    """Tiers as they are evaluated; others stay as listed."""
    if not isinstance(resource, Tier):
        return 0
    return float("inf") if resource.spec.order is None else resource.spec.order


def _shown(
    arguments: argparse.Namespace,
    chosen: Sequence[selection.Selection],
    found: Sequence[Resource],
) -> str:
    form = arguments.output
    if form in ("yaml", "yml", "json"):
        single = len(found) == 1 and not any(s.names is None for s in chosen)
        return printing.structured(found, form, single=single)
    if form == "name":
        return printing.names(found)
    kinds = list(dict.fromkeys([s.kind for s in chosen] + [r.kind for r in found]))
    namespaces = bool(arguments.namespace or arguments.all_namespaces)
    return "\n\n".join(
        printing.table(
            kind,
            [resource for resource in found if resource.kind == kind],
            wide=form == "wide",
            namespaces=namespaces and kind in NAMESPACED,
        )
        for kind in kinds
    )
