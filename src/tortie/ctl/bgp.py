"""`tortie bgp`: routes that BIRD knows, and the way from a mesh to route reflectors."""

import argparse
import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from tortie.bgp import reflectors, status
from tortie.bgp.reflectors import Plan
from tortie.ctl import command
from tortie.ctl.boxes import boxed
from tortie.ctl.node import add_run_directory, ask_bird
from tortie.datastore.resources import Resources
from tortie.lib.errors import NotFound, Unavailable
from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata, Resource
from tortie.model.node import Node
from tortie.model.node_status import BGPStatus, CalicoNodeStatus, CalicoNodeStatusSpec

SETTLE_SECONDS = 60.0
"""Much longer than a session's retries, and than the agents need to hear of a change."""

STATUS_PREFIX = "bgp-plan-"
"""Of the CalicoNodeStatus objects by which nodes tell of their sessions; removed afterwards."""

TITLES = ("DESTINATION", "TYPE", "VIA", "LEARNT FROM", "SINCE", "BEST")


def main(argv: Sequence[str], out: TextIO) -> int:
    arguments = _parser().parse_args(argv)
    act: Callable[[argparse.Namespace, TextIO], int] = arguments.act
    return act(arguments, out)


def _parser() -> argparse.ArgumentParser:
    made = command.parser("bgp", "routes by BGP")
    verbs = made.add_subparsers(metavar="VERB", required=True)
    routes = verbs.add_parser("routes", help="what this host's BIRD knows, and from whom")
    add_run_directory(routes)
    routes.add_argument("--ip-version", type=int, choices=(4, 6), help="only one family")
    routes.add_argument("--best", action="store_true", help="only the routes that are used")
    routes.set_defaults(act=_routes)
    plan = verbs.add_parser("plan", help="how to replace the mesh by route reflectors")
    plan.add_argument(
        "--route-reflectors", type=int, required=True, metavar="NUMBER", help="how many"
    )
    plan.add_argument("--apply", action="store_true", help="do it, step by step")
    plan.add_argument(
        "--settle-seconds", type=float, default=SETTLE_SECONDS, metavar="SECONDS",
        help="how long sessions may take to come up before the mesh goes; if they do not, it "
        "stays; default %(default)s",
    )  # fmt: skip
    plan.set_defaults(act=_plan)
    return made


def _routes(arguments: argparse.Namespace, out: TextIO) -> int:
    found = status.routes(ask_bird(arguments.run_directory, "show route"))
    rows = [
        (
            route.destination,
            route.kind,
            ", ".join(route.via) or "-",
            route.protocol,
            route.since.partition(".")[0],
            "yes" if route.best else "",
        )
        for route in found
        if arguments.ip_version in (None, 6 if ":" in route.destination else 4)
        and (route.best or not arguments.best)
    ]
    print(boxed(TITLES, rows) if rows else "No routes.", file=out)
    return 0


def _plan(arguments: argparse.Namespace, out: TextIO) -> int:
    async def read(resources: Resources) -> Plan:
        nodes = await resources.all_of(Node)
        try:
            stored = await resources.get(ResourceKey("BGPConfiguration", "default"))
        except NotFound:
            configuration = None
        else:
            configuration = stored.resource
        assert configuration is None or isinstance(configuration, BGPConfiguration)
        return reflectors.plan(nodes, configuration, arguments.route_reflectors)

    plan = command.with_resources(arguments.config, read)
    print(f"Route reflectors: {', '.join(plan.reflectors)}", file=out)
    print(f"Sessions: {plan.sessions_before} in a mesh, {plan.sessions_after} then", file=out)
    for number, step in enumerate(plan.steps, start=1):
        print(f"{number}. {step.summary}", file=out)
    if not arguments.apply:
        print("Nothing was changed; --apply does it in this order.", file=out)
        return 0
    for number, step in enumerate(plan.steps, start=1):
        if step.resource is None:
            _wait(arguments, plan)
        else:
            _apply(arguments, step.resource)
        print(f"done: {number}", file=out, flush=True)
    return 0


def _apply(arguments: argparse.Namespace, resource: Resource) -> None:
    async def write(resources: Resources) -> None:
        await resources.apply(resource)

    command.with_resources(arguments.config, write)


def _wait(arguments: argparse.Namespace, plan: Plan) -> None:
    """Until the nodes say that their sessions to the reflectors are up.

    Raises:
        Unavailable: not all of them in time; nothing was broken, and nothing more is changed.
    """

    async def wait(resources: Resources) -> None:
        nodes = [node for node in await resources.all_of(Node) if node.spec.bgp]
        names = {f"{STATUS_PREFIX}{node.metadata.name}": node.metadata.name for node in nodes}
        give_up = time.monotonic() + arguments.settle_seconds
        try:
            for name, node in names.items():
                await _forget(resources, name)
                await resources.create(_question(name, node))
            while missing := reflectors.missing_sessions(
                nodes, plan.reflectors, await _reports(resources, names)
            ):
                if time.monotonic() > give_up:
                    raise Unavailable(
                        f"{len(missing)} sessions are not up after {arguments.settle_seconds:g} s, "
                        f"such as {missing[0]}; the mesh stays. Run it again when they are"
                    )
                await asyncio.sleep(0.5)
        finally:
            for name in names:
                await _forget(resources, name)

    command.with_resources(arguments.config, wait)


def _question(name: str, node: str) -> CalicoNodeStatus:
    return CalicoNodeStatus(
        kind="CalicoNodeStatus",
        metadata=Metadata(name=name),
        spec=CalicoNodeStatusSpec(node=node, classes=("BGP",), update_period_seconds=1),
    )


async def _reports(resources: Resources, names: Mapping[str, str]) -> dict[str, BGPStatus]:
    return {
        names[found.metadata.name]: found.status.bgp
        for found in await resources.all_of(CalicoNodeStatus)
        if found.metadata.name in names and found.status.bgp is not None
    }


async def _forget(resources: Resources, name: str) -> None:
    with suppress(NotFound):
        await resources.delete(ResourceKey("CalicoNodeStatus", name))
