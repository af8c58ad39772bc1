"""`tortie bgp`: routes that BIRD knows, and the way from a mesh to route reflectors."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from tortie.bgp import reflectors, status
from tortie.bgp.reflectors import Plan
from tortie.ctl import command
from tortie.ctl.boxes import boxed
from tortie.ctl.node import add_run_directory, ask_bird
from tortie.datastore.resources import Resources
from tortie.lib.errors import NotFound
from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource
from tortie.model.node import Node

SETTLE_SECONDS = 30.0
"""Longer than a session's retries, and than the agents need to hear of a change."""

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
        help="how long sessions get to come up before the mesh goes; default %(default)s",
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
            time.sleep(arguments.settle_seconds)
        else:
            _apply(arguments, step.resource)
        print(f"done: {number}", file=out, flush=True)
    return 0


def _apply(arguments: argparse.Namespace, resource: Resource) -> None:
    async def write(resources: Resources) -> None:
        await resources.apply(resource)

    command.with_resources(arguments.config, write)
