"""Attach a namespace, a tap for a VM, or an interface that is there, by hand.

The host's agent does it, over its socket; what comes of it is a WorkloadEndpoint as any other.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from tortie.attach.client import DEFAULT_PATH, Client
from tortie.ctl.printing import structured
from tortie.lib.arguments import Parser
from tortie.lib.errors import InvalidInput, TortieError

NAMED_NAMESPACES = "/run/netns"

FORMATS = ("table", "wide", "json", "yaml", "name")

_EXAMPLES = {
    "add": "Examples: tortie workload add web --netns web --label role=web; "
    "tortie workload add vm1 --tap --mac 52:54:00:00:00:07 --dhcp",
    "remove": "To move one: remove it here with --keep-addresses, and add it there by the same "
    "name. It is fine to remove what is not there.",
}


def main(argv: Sequence[str]) -> int:
    arguments = _parsed(argv)
    with Client(arguments.socket) as agent:
        arguments.run(agent, arguments)
    return 0


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    try:
        return _parser().parse_args(argv)
    except InvalidInput as error:
        if "--tap" in argv and "required: WORKLOAD" in str(error):
            raise InvalidInput(
                "the WORKLOAD comes before --tap: what follows --tap is the tap's own name"
            ) from None
        raise


def _parser() -> Parser:
    parser = Parser(prog="tortie workload", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    add = verbs.add_parser(
        "add", help="bring a workload in, or change it", epilog=_EXAMPLES["add"], allow_abbrev=False
    )
    add.set_defaults(run=_add)
    where = add.add_mutually_exclusive_group(required=True)
    where.add_argument("--netns", metavar="NETNS|PATH", help="a network namespace: gets a veth")
    where.add_argument("--tap", metavar="NAME", nargs="?", const="", help="makes a tap for a VM")
    where.add_argument("--interface", metavar="NAME", help="an interface that is there, as a VM's")
    add.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="policies select it by these; repeatable",
    )
    add.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="PROFILE",
        help="what holds where no policy selects it; without one, nothing passes then",
    )
    add.add_argument("--address", action="append", default=[], help="this one rather than any")
    add.add_argument(
        "--pool", action="append", default=[], metavar="POOL", help="its address is from this pool"
    )
    add.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="NAME=PROTOCOL:NUMBER",
        help="what policies call that port, as http=tcp:80",
    )
    add.add_argument("--ipv6", action="store_true", help="an IPv6 address, too")
    add.add_argument("--mac", default="", help="of the workload's end")
    add.add_argument("--mtu", type=int, default=0, help="of a link that is made for it")
    add.add_argument(
        "--dhcp", action="store_true", help="a VM's: it asks for its address (tortie dhcp serve)"
    )
    add.add_argument(
        "--dns", action="append", default=[], metavar="ADDRESS", help="name server it is told then"
    )
    add.add_argument("--inside", default="eth0", help="name in the namespace (%(default)s)")
    remove = verbs.add_parser(
        "remove", help="take a workload out", epilog=_EXAMPLES["remove"], allow_abbrev=False
    )
    remove.set_defaults(run=_remove)
    remove.add_argument("--keep-addresses", action="store_true", help="it comes up elsewhere")
    listing = verbs.add_parser("list", help="what is attached here", allow_abbrev=False)
    listing.set_defaults(run=_list)
    hook = verbs.add_parser(
        "libvirt", help="libvirt's qemu hook: attach a guest's interfaces", allow_abbrev=False
    )
    hook.set_defaults(run=_libvirt)
    hook.add_argument("guest")
    hook.add_argument("operation", help="prepare, release, reconnect or attach; others do nothing")
    hook.add_argument("rest", nargs="*", help="as libvirt gives it")
    hook.add_argument("--prefix", default="cali", help="of devices that are ours (%(default)s)")
    for verb in (add, remove):
        verb.add_argument("name", metavar="WORKLOAD", help="its name, on whatever host it is")
        verb.add_argument(
            "-n",
            "--namespace",
            default="default",
            help="which policies are for it; none has to be made first (%(default)s)",
        )
        verb.add_argument("--endpoint", default="eth0", help="which one of several (%(default)s)")
        verb.add_argument(
            "--timeout",
            type=float,
            default=30.0,
            metavar="SECONDS",
            help="until its policy is in force, at most (%(default)g)",
        )
    for verb in (add, listing):
        verb.add_argument(
            "-o", "--output", choices=FORMATS, default="table", help="how to print (%(default)s)"
        )
    for verb in (add, remove, listing, hook):
        verb.add_argument("--socket", default=DEFAULT_PATH, help="the agent's (%(default)s)")
    return parser


def _add(agent: Client, arguments: argparse.Namespace) -> None:
    found = agent.add(
        **_named(arguments),
        **_place(arguments),
        labels=dict(_pair(text, "--label") for text in arguments.label),
        profiles=arguments.profile,
        addresses=arguments.address,
        pools=arguments.pool,
        ports=[_port(text) for text in arguments.port],
        families=[4, 6] if arguments.ipv6 else [4],
        mac=arguments.mac,
        dhcp=arguments.dhcp,
        dns=arguments.dns,
        mtu=arguments.mtu,
        inside=arguments.inside,
    )
    _print([found], arguments.output)


def _remove(agent: Client, arguments: argparse.Namespace) -> None:
    found = agent.remove(**_named(arguments), keep_addresses=arguments.keep_addresses)
    if found.get("pending"):
        print("removed; the datastore is away and hears of it later")
    else:
        print("removed" if found["found"] else "there was none")


def _libvirt(agent: Client, arguments: argparse.Namespace) -> None:
    """All interfaces of a guest or none: libvirt does not release what it could not prepare."""
    from tortie.ctl import libvirt_hook  # XML is slow to import

    if arguments.operation not in (*libvirt_hook.ADDING, *libvirt_hook.REMOVING):
        return
    xml = sys.stdin.buffer.read(libvirt_hook.XML_MAX_BYTES + 1)
    requests = libvirt_hook.parse_guest(xml, arguments.prefix).requests()
    if arguments.operation in libvirt_hook.REMOVING:
        _remove_all(agent, requests)
        return
    for count, request in enumerate(requests):
        try:
            agent.add(**request)
        except TortieError:
            if arguments.operation == "prepare":
                _remove_all(agent, requests[: count + 1])
            raise


def _remove_all(agent: Client, requests: Sequence[dict[str, Any]]) -> None:
    for request in requests:
        agent.remove(**{name: request[name] for name in ("namespace", "workload", "endpoint")})


def _list(agent: Client, arguments: argparse.Namespace) -> None:
    _print(agent.list(), arguments.output)


def _named(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "namespace": arguments.namespace,
        "workload": arguments.name,
        "endpoint": arguments.endpoint,
        "timeout_seconds": arguments.timeout,
    }


def _place(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.netns is not None:
        path: str = arguments.netns
        return {"netns": path if "/" in path else os.path.join(NAMED_NAMESPACES, path)}
    if arguments.tap is not None:
        return {"device": "tap", "host_interface": arguments.tap}
    return {"device": "existing", "host_interface": arguments.interface}


def _port(text: str) -> dict[str, Any]:
    name, value = _pair(text, "--port")
    protocol, _, number = value.rpartition(":")
    if not number.isdecimal():
        raise InvalidInput(f"--port {text!r} must be NAME=PROTOCOL:NUMBER, as http=tcp:80")
    return {"name": name, "protocol": protocol.upper() or "TCP", "port": int(number)}


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InvalidInput(f"{option} {text!r} must have a key, '=' and a value")
    return key, value


def _print(workloads: Sequence[dict[str, Any]], output: str) -> None:
    if output in ("json", "yaml"):
        print(structured(workloads, output))
        return
    if output == "name":
        print("\n".join(dict.fromkeys(map(_name, workloads))), end="\n" if workloads else "")
        return
    titles = ("WORKLOAD", "ENDPOINT", "INTERFACE", "ADDRESSES", "MAC", "BY", "NETWORK", "NAMESPACE")
    rows = [titles, *map(_row, workloads)]
    if output == "table":
        rows = [row[:5] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("   ".join(cells).rstrip())


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    own = found["key"]
    addresses = ",".join(text.partition("/")[0] for text in found["addresses"])
    place = (own["endpoint"], found["interface"], addresses, found["mac"] or "any")
    return (
        _name(found),
        *place,
        own["orchestrator"],
        found["network"] or "-",
        found["netns"] or "-",
    )


def _name(found: dict[str, Any]) -> str:
    return f"{found['key']['namespace']}/{found['key']['workload']}"
