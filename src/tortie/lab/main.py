"""`tortie lab`: clusters on this machine, to learn with and to test on."""

import argparse
import os
import sys
from collections.abc import Sequence

from tortie.agent import flow_client
from tortie.agent.flow_record import SOCKET_NAME
from tortie.lab import cluster, description, workloads
from tortie.lab.description import Lab
from tortie.lib.arguments import Parser
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.table import aligned

DEFAULT_NAME = "lab"


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.needs_root and os.geteuid() != 0:
        raise InvalidInput(
            "a lab is made of network namespaces, which needs root: "
            f"sudo tortie lab {' '.join(argv)}"
        )
    code: int = arguments.run(arguments)
    return code


def _parser() -> Parser:
    parser = Parser(prog="tortie lab", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)

    def verb(name: str, text: str, run: object, **defaults: object) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.add_argument("--name", default=DEFAULT_NAME, help="of the lab (default %(default)s)")
        made.set_defaults(run=run, needs_root=True, **defaults)
        return made

    up = verb("up", "make a lab and wait until every host enforces", _up)
    up.add_argument("--hosts", type=int, default=3, metavar="N", help="default %(default)s")
    up.add_argument("--datastore", choices=("embedded", "etcd"), default="embedded")
    up.add_argument("--routing", choices=("direct", "bgp"), default="direct")
    up.add_argument("--ipv6", action="store_true", help="IPv6 beside IPv4")
    verb("status", "show hosts, agents and workloads", _status)
    verb("down", "remove a lab without trace, also a broken one", _down)
    verb("list", "show all labs", _list)
    env = verb("env", "print the settings that make other commands work on the lab", _env)
    env.set_defaults(needs_root=False)
    restart = verb("restart", "end the agents of hosts, and start them anew", _restart)
    restart.add_argument("hosts", nargs="+", metavar="HOST")
    restart.add_argument("--kill", action="store_true", help="with SIGKILL, as a crash would")
    execute = verb("exec", "run a command inside a host or workload", _exec)
    execute.add_argument("where", metavar="HOST|WORKLOAD")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    probe = verb("probe", "find out by real packets who reaches whom", _probe)
    probe.add_argument("--from", dest="sources", action="append", metavar="WORKLOAD")
    probe.add_argument("--to", dest="targets", action="append", metavar="WORKLOAD")
    probe.add_argument(
        "--port", dest="ports", action="append", metavar="PORT", help="tcp:80, udp:53 or icmp"
    )
    probe.add_argument("-6", dest="ipv6", action="store_true", help="ask over IPv6")
    probe.add_argument("-o", "--output", choices=("table", "json"), default="table")
    _add_flow_options(
        verb("flows", "show whom policy let through or denied, on every host", _flows)
    )
    _add_workload_verbs(verbs)
    return parser


def _add_flow_options(flows: argparse.ArgumentParser) -> None:
    """Those of `tortie flows`."""
    flows.add_argument("-f", "--follow", action="store_true", help="go on, showing what comes")
    flows.add_argument("--verdict", choices=("allow", "deny"), default="")
    for option, name in (("--from", "sources"), ("--to", "destinations")):
        flows.add_argument(option, dest=name, action="append", default=[], metavar="WHO")
    flows.add_argument("--port", dest="ports", action="append", default=[], metavar="PORT")
    flows.add_argument("--since", default="", metavar="TIME", help="90s, 10m, 1h")
    flows.add_argument("-o", "--output", choices=("table", "wide", "json"), default="table")


def _add_workload_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    text = "add, move, label, remove and list workloads"
    nouns = verbs.add_parser("workload", help=text, description=text).add_subparsers(
        metavar="VERB", required=True, parser_class=Parser
    )

    def verb(name: str, help_text: str, run: object) -> argparse.ArgumentParser:
        made = nouns.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        made.add_argument("--name", dest="lab", default=DEFAULT_NAME, help="of the lab")
        made.set_defaults(run=run, needs_root=True)
        return made

    add = verb("add", "bring a workload in, as a container would be", _workload_add)
    add.add_argument("workload", metavar="NAME")
    add.add_argument("--host", required=True)
    add.add_argument("-n", "--namespace", default="default")
    add.add_argument("--label", dest="labels", action="append", default=[], metavar="K=V")
    add.add_argument("--listen", action="append", default=[], metavar="tcp:80")
    remove = verb("rm", "take a workload out", _workload_remove)
    remove.add_argument("workload", metavar="NAME")
    move = verb("move", "move to another host, with address and labels", _workload_move)
    move.add_argument("workload", metavar="NAME")
    move.add_argument("--to", required=True, metavar="HOST")
    label = verb("label", "change labels: K=V sets, K- removes", _workload_label)
    label.add_argument("workload", metavar="NAME")
    label.add_argument("changes", nargs="+", metavar="K=V|K-")
    listing = verb("list", "show workloads", _workload_list)
    listing.add_argument("-o", "--output", choices=("table", "json"), default="table")


def _up(arguments: argparse.Namespace) -> int:
    lab = description.plan(
        arguments.name,
        arguments.hosts,
        arguments.datastore,
        arguments.routing,
        ipv6=arguments.ipv6,
    )
    cluster.clean_up_when_stopped()
    cluster.up(lab, lambda text: print(f"  {text} …", file=sys.stderr))
    name = "" if lab.name == DEFAULT_NAME else f" --name {lab.name}"
    print(f"lab {lab.name} is up: {', '.join(host.name for host in lab.hosts)}")
    print(f"  add a workload:  tortie lab workload add{name} web --host h1 --listen tcp:80")
    print(f"  work on it:      export $(tortie lab env{name}) && tortie get nodes")
    print(f"  remove it:       tortie lab down{name}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    known = cluster.exists(arguments.name)
    cluster.down(arguments.name)
    print(f"lab {arguments.name} {'is gone' if known else 'was not there'}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    for name in description.names():
        print(name)
    return 0


def _env(arguments: argparse.Namespace) -> int:
    for name, value in cluster.environment(description.load(arguments.name)).items():
        print(f"{name}={value}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    lab = description.load(arguments.name)
    addresses = "dual stack" if lab.ipv6 else "IPv4"
    print(f"lab {lab.name}: {lab.datastore} datastore, {lab.routing} routing, {addresses}")
    ready = True
    rows = [("HOST", "ADDRESS", "AGENT", "DETAIL")]
    for host in lab.hosts:
        found = cluster.health(lab, host)
        ready = ready and found.ready
        state = "ready" if found.ready else "not ready"
        rows.append((host.name, host.ipv4.address_text, state, found.detail))
    print(aligned(rows))
    if lab.workloads:
        print()
        print(workloads.listing(lab))
    return 0 if ready else 1


def _restart(arguments: argparse.Namespace) -> int:
    lab = description.load(arguments.name)
    for host in [lab.host(name) for name in arguments.hosts]:
        pid = cluster.restart_agent(lab, host, kill=arguments.kill)
        print(f"the agent of {host.name} runs again, as process {pid}")
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    lab = description.load(arguments.name)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise InvalidInput("no command given; tortie lab exec WHERE -- CMD")
    settings = cluster.environment(lab)
    if any(host.name == arguments.where for host in lab.hosts):
        directory = lab.host_directory(arguments.where)
        settings["TORTIE_RUN_DIRECTORY"] = str(directory)
        settings["TORTIE_STATE_DIRECTORY"] = str(directory / "state")
        settings["FELIX_FELIXHOSTNAME"] = arguments.where
    return cluster.execute(_namespace_of(lab, arguments.where), command, settings)


def _namespace_of(lab: Lab, where: str) -> str:
    for host in lab.hosts:
        if host.name == where:
            return lab.host_namespace(where)
    try:
        return lab.workload_namespace(lab.workload(where))
    except NotFound:
        hosts = ", ".join(host.name for host in lab.hosts)
        names = ", ".join(workload.full_name for workload in lab.workloads) or "none"
        raise NotFound(
            f"lab {lab.name} has no host or workload {where}; hosts: {hosts}; workloads: {names}"
        ) from None


def _probe(arguments: argparse.Namespace) -> int:
    lab = description.load(arguments.name)
    found = workloads.probe(
        lab, arguments.sources, arguments.targets, arguments.ports, ipv6=arguments.ipv6
    )
    print(found.json() if arguments.output == "json" else found.table())
    return 0


def _flows(arguments: argparse.Namespace) -> int:
    lab = description.load(arguments.name)
    options = ("output", "follow", "since", "verdict", "sources", "destinations", "ports")
    wanted = flow_client.make_wanted(**{name: getattr(arguments, name) for name in options})
    paths = {host.name: lab.host_directory(host.name) / SOCKET_NAME for host in lab.hosts}
    return flow_client.show(
        paths,
        wanted,
        lambda text: print(text, flush=True),
        lambda text: print(text, file=sys.stderr),
    )


def _workload_add(arguments: argparse.Namespace) -> int:
    added = workloads.add(
        arguments.lab,
        arguments.workload,
        arguments.host,
        arguments.namespace,
        workloads.parse_labels(arguments.labels),
        tuple(arguments.listen),
    )
    print(f"{added.full_name} on {added.host}: {', '.join(added.addresses)}")
    return 0


def _workload_remove(arguments: argparse.Namespace) -> int:
    removed = workloads.remove(arguments.lab, arguments.workload)
    print(f"{removed.full_name} is gone")
    return 0


def _workload_move(arguments: argparse.Namespace) -> int:
    moved = workloads.move(arguments.lab, arguments.workload, arguments.to)
    print(f"{moved.full_name} on {moved.host}: {', '.join(moved.addresses)}")
    return 0


def _workload_label(arguments: argparse.Namespace) -> int:
    changed = workloads.label(arguments.lab, arguments.workload, arguments.changes)
    print(f"{changed.full_name}: {workloads.labels_text(changed.labels)}")
    return 0


def _workload_list(arguments: argparse.Namespace) -> int:
    lab = description.load(arguments.lab)
    print(workloads.listing_json(lab) if arguments.output == "json" else workloads.listing(lab))
    return 0
