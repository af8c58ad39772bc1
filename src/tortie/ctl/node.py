"""`tortie node`: this host's BGP sessions, and which address is its own."""

import argparse
import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from tortie.bgp import autodetect, status
from tortie.bgp.bird import Bird
from tortie.bgp.snapshot import PeerKind
from tortie.ctl import command
from tortie.ctl.boxes import boxed
from tortie.datastore.resources import Resources
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import InvalidInput, NotFound, Unavailable
from tortie.lib.ip import Network, parse_address
from tortie.model.keys import ResourceKey
from tortie.model.node import Node

RUN_DIRECTORY = Path("/run/tortie")

TITLES = ("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")

KINDS = {
    PeerKind.MESH: "node-to-node mesh",
    PeerKind.NODE: "node specific",
    PeerKind.GLOBAL: "global",
    PeerKind.WORKLOAD: "local workload",
}
"""As calicoctl says it."""

EXIT_NONE_FOUND = 1


def main(argv: Sequence[str], out: TextIO) -> int:
    arguments = _parser().parse_args(argv)
    act: Callable[[argparse.Namespace, TextIO], int] = arguments.act
    return act(arguments, out)


def _parser() -> argparse.ArgumentParser:
    made = command.parser("node", "what concerns this host as a node of the cluster")
    verbs = made.add_subparsers(metavar="VERB", required=True)
    shown = verbs.add_parser("status", help="BGP sessions: with whom, since when, why not up")
    add_run_directory(shown)
    shown.add_argument("--allow-version-mismatch", action="store_true", help=argparse.SUPPRESS)
    shown.set_defaults(act=_status)
    detected = verbs.add_parser("autodetect", help="which address would be taken for this node's")
    detected.add_argument(
        "--method", default="first-found", metavar="METHOD",
        help="first-found, can-reach=HOST, interface=REGEX, skip-interface=REGEX, cidr=NETWORK, "
        "kubernetes-internal-ip; default %(default)s",
    )  # fmt: skip
    detected.add_argument("--ip-version", type=int, choices=(4, 6), default=4)
    detected.add_argument("--node", metavar="NAME", help="of kubernetes-internal-ip; hostname")
    detected.add_argument("--explain", action="store_true", help="what was looked at, and why")
    detected.set_defaults(act=_autodetect)
    return made


def add_run_directory(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--run-directory", type=Path, metavar="DIRECTORY",
        default=Path(os.environ.get("TORTIE_RUN_DIRECTORY", RUN_DIRECTORY)),
        help=f"the agent's; default TORTIE_RUN_DIRECTORY, else {RUN_DIRECTORY}",
    )  # fmt: skip


def ask_bird(run_directory: Path, question: str) -> list[tuple[int, str]]:
    """
    Raises:
        Unavailable: BIRD does not run here.
    """
    try:
        return asyncio.run(Bird(run_directory / "bird").ask(question))
    except Unavailable as error:
        raise Unavailable(
            f"{error}; is the agent running, and do routes come by BGP (programClusterRoutes)?"
        ) from error


def _status(arguments: argparse.Namespace, out: TextIO) -> int:
    found = status.peers(ask_bird(arguments.run_directory, "show protocols all"))
    print("Calico process is running.", file=out)
    for family in (4, 6):
        print(f"\nIPv{family} BGP status", file=out)
        rows = [
            (peer.address, KINDS[peer.kind], peer.state, peer.since.partition(".")[0], peer.info)
            for peer in found
            if (":" in peer.address) == (family == 6)
        ]
        print(boxed(TITLES, rows) if rows else f"No IPv{family} peers found.", file=out)
    return 0


def _autodetect(arguments: argparse.Namespace, out: TextIO) -> int:
    family: int = arguments.ip_version
    internal: tuple[Network, ...] = ()
    if arguments.method == "kubernetes-internal-ip":
        internal = _internal(arguments.config, arguments.node or socket.gethostname())
    found = autodetect.detect(
        arguments.method, family, interfaces(), lambda to: source_towards(to, family), internal
    )
    if arguments.explain:
        for reason in found.reasons:
            print(f"  {reason}", file=out)
    if found.address is None:
        print(f"no IPv{family} address found by {arguments.method}", file=out)
        return EXIT_NONE_FOUND
    print(f"{found.address} on {found.interface}", file=out)
    return 0


def interfaces() -> list[autodetect.Interface]:
    """This machine's, in the kernel's order."""
    with Rtnl.open() as kernel:
        links, addresses = kernel.links(), kernel.addresses()
    return [
        autodetect.Interface(
            link.name,
            link.up,
            tuple(
                autodetect.Address(address.address, address.length)
                for address in addresses
                if address.interface == link.index and not address.duplicate
            ),
        )
        for link in links
    ]


def source_towards(target: str, family: int) -> Network | None:
    """What the kernel would send from; nothing is sent."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    try:
        found = socket.getaddrinfo(target, 9, kind, socket.SOCK_DGRAM)
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])
            return parse_address(str(probe.getsockname()[0]))
    except (OSError, InvalidInput):
        return None


def _internal(config: Path | None, name: str) -> tuple[Network, ...]:
    async def act(resources: Resources) -> object:
        return (await resources.get(ResourceKey("Node", name))).resource

    node = command.with_resources(config, act)
    if not isinstance(node, Node):
        raise NotFound(f"there is no Node {name}; give --node")
    return tuple(
        parse_address(entry.address.partition("/")[0])
        for entry in node.spec.addresses
        if entry.type == "InternalIP"
    )
