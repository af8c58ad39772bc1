"""`tortie policy`: why a packet passes or not, what applies, and what a change would do."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

import msgspec

from tortie.ctl import infrastructure
from tortie.ctl.command import (
    Parser,
    add_file_arguments,
    add_namespace_argument,
    parser,
    read_files,
    with_resources,
)
from tortie.ctl.kinds import kind_named
from tortie.ctl.policy_text import (
    change_row,
    explanation_text,
    plain_change,
    plain_explanation,
)
from tortie.ctl.printing import listed, structured
from tortie.datastore.resources import Resources, key_of
from tortie.explain import matching, oracle, trace, why
from tortie.explain.impact import host_endpoints_unknown, impact
from tortie.explain.mismatch import protocol_name, short_name
from tortie.explain.oracle import Packet, State, Way
from tortie.explain.staged import enforce_staged
from tortie.lib.errors import InvalidInput, NotFound, TortieError
from tortie.lib.ip import Network
from tortie.lib.table import aligned
from tortie.model.codec import to_plain
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.keys import Key, ResourceKey
from tortie.model.policy import unenforceable
from tortie.model.unknown_rules import close_unknown

EXIT_DENIED = 1
EXIT_CHANGES = 1
EXIT_NO_ANSWER = 2

KINDS = (
    "Tier",
    "GlobalNetworkPolicy",
    "NetworkPolicy",
    "Profile",
    "GlobalNetworkSet",
    "NetworkSet",
    "WorkloadEndpoint",
    "HostEndpoint",
    "Node",
    "FelixConfiguration",
    "KubernetesEndpointSlice",
    "StagedGlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
)
"""All that policy is decided by."""

WAYS: tuple[Way, Way] = ("Ingress", "Egress")
_SOURCE_PORT = 49152
"""The first dynamic port (RFC 6335), for a packet whose source port nobody names."""


def main(argv: Sequence[str], out: TextIO) -> int:
    try:
        arguments = _parser().parse_args(argv)
        state = with_resources(arguments.config, read_state)
        code: int = arguments.run(arguments, state, out)
    except TortieError as error:
        # 1 is an answer here, so a question that has none needs another code.
        print(f"tortie policy: {error}", file=sys.stderr)
        return EXIT_NO_ANSWER
    return code


async def read_state(resources: Resources) -> State:
    """Everything that decides about packets, by key."""
    state: dict[Key, object] = {}
    for kind in KINDS:
        for item in (await resources.list(kind)).items:
            metadata = item.resource.metadata
            resource, _ = close_unknown(item.resource, item.raw)  # as agents see it
            state[ResourceKey(kind, metadata.name, metadata.namespace)] = resource
    return state


def _parser() -> Parser:
    made = parser("policy", "explain what policy does")
    verbs = made.add_subparsers(metavar="VERB", required=True)
    text = "say whether a packet passes, and which rules decide; exit status 1 if it does not"
    explain = verbs.add_parser("why", help=text, description=text)
    explain.add_argument("source", metavar="SRC", help="a workload (namespace/name) or an address")
    explain.add_argument("destination", metavar="DST")
    explain.add_argument("port", metavar="PROTO/PORT", help="tcp/80, udp/53, icmp, icmp/8/0, 47")
    explain.add_argument("--source-port", type=int, default=_SOURCE_PORT, metavar="PORT")
    explain.add_argument("-6", dest="family", action="store_const", const=6, help="over IPv6")
    explain.add_argument("-o", "--output", choices=("text", "json"), default="text")
    explain.set_defaults(run=_why)
    text = "show what applies to an endpoint, in the order of evaluation"
    listing = verbs.add_parser("list", help=text, description=text)
    listing.add_argument("--for", dest="endpoint", required=True, metavar="ENDPOINT")
    listing.add_argument("-o", "--output", choices=("text", "json"), default="text")
    listing.set_defaults(run=_list)
    text = "show which packets a change would let through or stop; nothing is applied"
    change = verbs.add_parser("impact", help=text, description=f"{text}; exit status 1 if any")
    add_file_arguments(change, required=False)
    add_namespace_argument(change)
    change.add_argument(
        "--delete", action="append", default=[], metavar="KIND/[NS/]NAME", help="as if it were gone"
    )
    change.add_argument(
        "--label",
        nargs=2,
        action="append",
        default=[],
        metavar=("WORKLOAD", "K=V|K-"),
        help="as if the workload had this label, or had it no more",
    )
    text = "as if all that is staged, in FILE too, were enforced"
    change.add_argument("--staged", action="store_true", help=text)
    change.add_argument("-o", "--output", choices=("table", "json"), default="table")
    change.set_defaults(run=_impact)
    _add_infrastructure(verbs.add_parser)
    return made


def _add_infrastructure(add_verb: Callable[..., argparse.ArgumentParser]) -> None:
    text = "print a tier that keeps workloads from cloud metadata, management and the datastore"
    verb = add_verb("infrastructure", help=text, description=f"{text}; for `tortie apply -f -`")
    for flag, name, meant in (
        ("--management", "CIDR", "where nobody but the hosts has business; repeatable"),
        ("--datastore", "CIDR", "where etcd is: its ports are denied; repeatable"),
        ("--except-namespace", "NS", "whose workloads are not kept from it; repeatable"),
    ):
        verb.add_argument(flag, action="append", default=[], metavar=name, help=meant)
    text = "every node's own addresses count as management, too"
    verb.add_argument("--nodes", action="store_true", help=text)
    verb.set_defaults(run=_infrastructure)


def _infrastructure(arguments: argparse.Namespace, state: State, out: TextIO) -> int:
    nodes = infrastructure.node_addresses(state) if arguments.nodes else []
    resources = infrastructure.manifest(
        [*arguments.management, *nodes], arguments.datastore, arguments.except_namespace
    )
    items = [to_plain(resource) for resource in resources]
    print(structured(listed(items), "yaml"), file=out)
    return 0


def parse_packet(source: Network, destination: Network, port: str, source_port: int) -> Packet:
    """
    Raises:
        InvalidInput: not `PROTO`, `PROTO/PORT` or `icmp/TYPE/CODE`.
    """
    name, *numbers = port.lower().replace(":", "/").split("/")
    if name == "icmp" and source.family == 6:
        name = "icmpv6"
    try:
        protocol = matching.protocol_number(int(name) if name.isdecimal() else name)
        values = [int(number) for number in numbers]
    except (KeyError, ValueError):
        raise InvalidInput(
            f"{port!r} is no protocol and port: say tcp/80, udp/53, icmp or a number"
        ) from None
    if protocol in (1, 58) and len(values) <= 2:
        echo = 8 if protocol == 1 else 128
        icmp_type, icmp_code = [*values, *(echo, 0)[len(values) :]]
        return Packet(source, destination, protocol, icmp_type=icmp_type, icmp_code=icmp_code)
    if protocol in (6, 17, 132, 136) and len(values) == 1 and 0 < values[0] <= 65535:
        return Packet(source, destination, protocol, source_port, values[0])
    if not values and protocol not in (6, 17, 132, 136):
        return Packet(source, destination, protocol)
    raise InvalidInput(f"{port!r}: {protocol_name(protocol)} needs one port from 1 to 65535")


def _why(arguments: argparse.Namespace, state: State, out: TextIO) -> int:
    source, destination = _addresses(arguments, state)
    packet = parse_packet(source, destination, arguments.port, arguments.source_port)
    found = why.explain(state, packet)
    if arguments.output == "json":
        print(
            msgspec.json.format(msgspec.json.encode(plain_explanation(found)), indent=2).decode(),
            file=out,
        )
    else:
        print(explanation_text(state, found), file=out)
    return 0 if found.allowed else EXIT_DENIED


def _addresses(arguments: argparse.Namespace, state: State) -> tuple[Network, Network]:
    """Of one family: that of whichever was given as an address, or what -6 says."""
    family: int | None = arguments.family
    source = why.resolve(state, arguments.source, family)
    destination = why.resolve(state, arguments.destination, family)
    if source.family != destination.family:
        source = why.resolve(state, arguments.source, destination.family)
        destination = why.resolve(state, arguments.destination, source.family)
    if source.family != destination.family:
        raise InvalidInput(
            f"{arguments.source} and {arguments.destination} have no family of addresses in common"
        )
    return source, destination


def _list(arguments: argparse.Namespace, state: State, out: TextIO) -> int:
    key, endpoint = why.find_host_endpoint(state, arguments.endpoint) or why.find_endpoint(
        state, arguments.endpoint
    )
    rows = list(_applying(state, key, endpoint, {}))
    then = enforce_staged(state)
    staged = list(_applying(then.state, key, endpoint, then.origins))
    if arguments.output == "json":
        plain = [row | {"staged": False} for row in rows]
        if staged != rows:
            plain += [row | {"staged": True} for row in staged]
        print(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode(), file=out)
        return 0
    print(f"{short_name(state, key)} on {endpoint.spec.node}", file=out)
    _print_rows(rows, out)
    if staged != rows:
        print("if all that is staged were enforced", file=out)
        _print_rows(staged, out)
    return 0


def _print_rows(rows: list[dict[str, str]], out: TextIO) -> None:
    for row in rows:
        note = f"  ({row['note']})" if row["note"] else ""
        print(
            f"  {row['way']:<8} {row['tier']:<20} {row['policy']:<50} {row['end']}{note}", file=out
        )


def _applying(
    state: State,
    key: ResourceKey,
    endpoint: WorkloadEndpoint | HostEndpoint,
    origins: Mapping[ResourceKey, ResourceKey],
) -> Iterator[dict[str, str]]:
    """
    Args:
        origins: other names for policies.
    """
    for way in WAYS:
        for tier, default, policies in _all_tiers(state, key, way):
            before: float | None = None
            for name, policy in policies:
                shown, end = str(origins.get(name, name)), f"end of tier: {default}"
                notes = list(unenforceable(policy.spec, way))
                if policy.spec.order is not None and policy.spec.order == before:
                    notes.append("same order as the one before: by name")
                before = policy.spec.order
                yield _row(way, f"tier {tier}", shown, end, "; ".join(notes))
        for profile in endpoint.spec.profiles:
            yield _row(way, "profiles", f"Profile({profile})", "end: Deny")


def _all_tiers(
    state: State, key: ResourceKey, way: Way
) -> Iterator[tuple[str, str, list[tuple[ResourceKey, oracle.Policy]]]]:
    """Of a host endpoint also those that are asked in other places."""
    if key.kind == "HostEndpoint":
        for place in (*trace.places_of(state, key, way)[:-1], trace.FORWARD):
            for tier, default, policies in oracle.tiers_of(state, key, way, place):
                yield f"{tier} ({place})", default, policies
    yield from oracle.tiers_of(state, key, way)


def _row(way: Way, tier: str, policy: str, end: str, note: str = "") -> dict[str, str]:
    return {"way": way.lower(), "tier": tier, "policy": policy, "end": end, "note": note}


def _impact(arguments: argparse.Namespace, before: State, out: TextIO) -> int:
    if not (arguments.files or arguments.delete or arguments.label or arguments.staged):
        raise InvalidInput("nothing to look at: give -f FILE, --delete, --label or --staged")
    after = _changed(arguments, before)
    if arguments.staged:
        after = enforce_staged(after).state
    changes = impact(before, after)
    if arguments.output == "json":
        plain = [plain_change(change) for change in changes]
        print(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode(), file=out)
    elif changes:
        rows: list[tuple[str, ...]] = [("FROM", "TO", "PROTOCOL AND PORTS", "NOW", "THEN", "PAIRS")]
        rows += [change_row(change) for change in changes]
        print(aligned(rows), file=out)
    else:
        print("no packet is treated differently", file=out)
    if unknown := host_endpoints_unknown(before, after):
        names = ", ".join(unknown)
        note = "note: nothing is known of these host endpoints' addresses, so they are left out"
        print(f"{note}: {names}", file=sys.stderr)
    return EXIT_CHANGES if changes else 0


def _changed(arguments: argparse.Namespace, before: State) -> State:
    """The state as it would be."""
    after = dict(before)
    if arguments.files:
        for document in read_files(arguments):
            after[key_of(document.resource)] = document.resource
    for text in arguments.delete:
        kind, *names = text.split("/")
        key = ResourceKey(kind_named(kind), names[-1] if names else "", "/".join(names[:-1]))
        if after.pop(key, None) is None:
            raise NotFound(f"{text} is not there; say KIND/NAME or KIND/NAMESPACE/NAME")
    for workload, label in arguments.label:
        key, endpoint = why.find_endpoint(after, workload)
        labels = dict(endpoint.metadata.labels)
        name, equals, value = label.partition("=")
        if equals:
            labels[name] = value
        else:
            labels.pop(name.removesuffix("-"), None)
        metadata = msgspec.structs.replace(endpoint.metadata, labels=labels)
        after[key] = msgspec.structs.replace(endpoint, metadata=metadata)
    return after
