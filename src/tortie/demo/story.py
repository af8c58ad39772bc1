"""`tortie demo`: three hosts, six workloads, and everything that this is about.

Each chapter runs real commands, shows what they print, and checks by packets
that it is as told. The exit status is 0 only if every promise was kept.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources as package_files

import msgspec

from tortie.dataplane.driver.nftables import INET
from tortie.datastore.connect import connect, from_environment
from tortie.demo.terminal import PromiseBroken, Terminal
from tortie.kernel import netns
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.route import (
    PROTOCOL_BIRD,
    PROTOCOL_BOOT,
    PROTOCOL_KERNEL,
    TABLE_MAIN,
    Kind,
    Route,
)
from tortie.lab import capture, cluster, description, latency, probe, processes, topology, workloads
from tortie.lab.description import Datastore, Lab, Routing
from tortie.lib.arguments import Parser
from tortie.lib.errors import AlreadyExists, InvalidInput
from tortie.lib.ip import Network
from tortie.model import codec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.policy import EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec, Rule

NAME = "demo"
MEASURED_TIMES = 20
MEASURED_PORT = 7777

CAST = (
    ("shop", "web-1", "h1", {"role": "web"}, ("tcp:80",)),
    ("shop", "web-2", "h2", {"role": "web"}, ("tcp:80",)),
    ("shop", "db", "h3", {"role": "database"}, ("tcp:5432",)),
    ("office", "desk", "h1", {"role": "desk"}, ("tcp:22",)),
    ("office", "printer", "h2", {"role": "printer"}, ("tcp:9100",)),
    ("office", "guest", "h3", {"role": "desk", "trust": "guest"}, ("tcp:22",)),
)

WEB = {"shop/web-1", "shop/web-2"}


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="tortie demo", description=__doc__, allow_abbrev=False)
    parser.add_argument("--datastore", choices=("embedded", "etcd"), default="embedded")
    parser.add_argument("--routing", choices=("direct", "bgp"), default="direct")
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        raise InvalidInput("the demo makes network namespaces, which needs root: sudo tortie demo")
    return run(arguments.datastore, arguments.routing)


def run(datastore: Datastore, routing: Routing) -> int:
    if cluster.exists(NAME):
        raise AlreadyExists(
            f"there is a lab called {NAME}, or what is left of one; "
            f"remove it first: tortie lab down --name {NAME}"
        )
    terminal = Terminal()
    began = time.monotonic()
    cluster.clean_up_when_stopped()
    try:
        _Story(terminal, datastore, routing).tell()
    except PromiseBroken as error:
        print(f"\ntortie demo: promise broken: {error}", file=sys.stderr)
        _show_logs()
        return 1
    finally:
        cluster.down(NAME)
    left = topology.namespaces(f"tortie.{NAME}.")
    terminal.promise(not left, "everything is cleaned up")
    print(f"\n   {time.monotonic() - began:.0f} seconds. Now play (.venv/bin is where tortie is):")
    print("     tortie lab up && tortie lab workload add web --host h1 --listen tcp:80")
    return 0


def _show_logs() -> None:
    for log in sorted((description.ROOT / NAME).glob("*/agent.log")):
        with contextlib.suppress(OSError):
            print(f"--- {log}\n{log.read_text()[-2000:]}", file=sys.stderr)


class _Story:
    def __init__(self, terminal: Terminal, datastore: Datastore, routing: Routing) -> None:
        self._terminal = terminal
        self._datastore: Datastore = datastore
        self._routing: Routing = routing
        self._environment: dict[str, str] = {}

    def tell(self) -> None:
        self._hosts()
        self._workloads()
        self._plain_ip()
        self._policies()
        self._labels()
        self._only_where_needed()
        self._move()
        self._kill()

    @property
    def _lab(self) -> Lab:
        return description.load(NAME)

    def _tortie(self, *arguments: str) -> str:
        return self._terminal.command(*arguments, environment=self._environment)

    def _reached(self, port: str, *, to: Iterable[str] | None = None) -> set[str]:
        """Show the matrix of a port; returns `from → to` for each that was answered."""
        targets = [part for name in to or () for part in ("--to", name)]
        self._tortie("lab", "probe", "--name", NAME, "--port", port, *targets)
        found = workloads.probe(self._lab, None, list(to) if to else None, [port])
        return {f"{a} → {b}" for pairs in found.answered.values() for a, b in pairs}

    def _hosts(self) -> None:
        terminal = self._terminal
        terminal.chapter(
            "Three hosts",
            "A lab makes hosts out of network namespaces: each has its own kernel tables, its own "
            "agent, and a cable to one switch.",
        )
        options = ["--datastore", self._datastore, "--routing", self._routing]
        self._tortie("lab", "up", "--name", NAME, *options)
        self._environment = cluster.environment(self._lab)
        self._tortie("get", "nodes", "-o", "wide")
        terminal.promise(
            all(cluster.health(self._lab, host).ready for host in self._lab.hosts),
            "every agent is ready",
        )

    def _workloads(self) -> None:
        self._terminal.chapter(
            "Six workloads in two namespaces",
            "Each gets an address, a route and its policy before the command returns.",
        )
        for namespace, name, host, labels, listen in CAST:
            options = [part for item in labels.items() for part in ("--label", "=".join(item))]
            options += [part for port in listen for part in ("--listen", port)]
            self._tortie(
                *("lab", "workload", "add", "--name", NAME, name),
                *("--host", host, "-n", namespace, *options),
            )
        _wait_for_routes(self._lab)
        everyone = {f"{a[0]}/{a[1]} → {b[0]}/{b[1]}" for a in CAST for b in CAST if a != b}
        self._terminal.promise(
            self._reached("icmp") == everyone, "everyone reaches everyone, across hosts"
        )

    def _plain_ip(self) -> None:
        terminal = self._terminal
        terminal.chapter(
            "Plain routed IP",
            "The routes of h1: its own workloads by their interfaces, its own block as a "
            "blackhole, the other hosts' blocks by those hosts.",
        )
        terminal.show("\n".join(_routes(self._lab, "h1")))
        terminal.say("And on the cable, while web-1 on h1 calls the database on h3:")
        lab = self._lab
        web, database = lab.workload("web-1"), lab.workload("db")
        with capture.frames(lab, topology.port_of(lab.host("h1"))) as frames:
            self._probe_once("web-1", "db", "tcp:5432")
            time.sleep(0.2)
        addresses = {workloads.address_of(web), workloads.address_of(database)}
        ours = [frame for frame in frames if {frame.source, frame.destination} == addresses]
        terminal.show("\n".join(dict.fromkeys(map(str, ours))))
        terminal.promise(
            bool(ours) and not any(frame.encapsulated for frame in frames),
            "the packets on the wire are the workloads' own: no tunnel, no translation",
        )

    def _policies(self) -> None:
        terminal = self._terminal
        terminal.chapter(
            "Tiered policy",
            "Security's tier goes first: only the shop may come to a database, and what it "
            "passes on is decided below. There the shop says: web servers only, two ports. "
            "And the office's guest may use the printer, nothing else.",
        )
        with package_files.as_file(package_files.files("tortie.demo") / "policies.yaml") as path:
            self._tortie("apply", "-f", os.path.relpath(path))
        self._settle()
        terminal.promise(
            self._reached("tcp:5432", to=["db"]) == {f"{name} → shop/db" for name in WEB},
            "only the shop's web servers reach the database",
        )
        from_guest = {pair for pair in self._reached("icmp") if pair.startswith("office/guest")}
        terminal.promise(
            from_guest == {"office/guest → office/printer"}, "the guest reaches the printer only"
        )
        self._measure("web-1", "printer")

    def _labels(self) -> None:
        terminal = self._terminal
        terminal.chapter(
            "A label changes, the rules follow",
            "Nobody edits a rule: a web server that loses its role loses the database, on the "
            "host of the database, at once.",
        )
        self._tortie("lab", "workload", "label", "--name", NAME, "web-2", "role=retired")
        self._settle()
        terminal.promise(
            self._reached("tcp:5432", to=["db"]) == {"shop/web-1 → shop/db"},
            "web-2 is out at once",
        )
        self._tortie("lab", "workload", "label", "--name", NAME, "web-2", "role=web")
        self._settle()
        terminal.promise(
            self._reached("tcp:5432", to=["db"]) == {f"{name} → shop/db" for name in WEB},
            "and back with its label",
        )
        self._measure_label("web-2", "db")

    def _only_where_needed(self) -> None:
        terminal = self._terminal
        terminal.chapter(
            "Rules live where the workload lives",
            "The chains of the database's policies, host by host:",
        )
        chains = {host.name: _policy_chains(self._lab, host.name) for host in self._lab.hosts}
        terminal.show(
            "\n".join(f"{host}: {len(names)} policy chains" for host, names in chains.items())
        )
        for name in chains["h3"]:
            terminal.show(f"h3: {name}")
        terminal.promise(
            any("database" in name for name in chains["h3"])
            and not any("database" in name for host in ("h1", "h2") for name in chains[host]),
            "h3 has the database's rules; h1 and h2 have none of them",
        )

    def _move(self) -> None:
        terminal = self._terminal
        terminal.chapter(
            "A workload moves",
            "The database goes from h3 to h1, with its address and its labels.",
        )
        before = self._lab.workload("db")
        began = time.monotonic()
        self._tortie("lab", "workload", "move", "--name", NAME, "db", "--to", "h1")
        _wait_for_routes(self._lab)
        after = self._lab.workload("db")
        terminal.promise(before.addresses == after.addresses, "it keeps its address")
        self._settle()
        terminal.promise(
            self._reached("tcp:5432", to=["db"]) == {f"{name} → shop/db" for name in WEB},
            "and its protection, reached by the same two and nobody else",
        )
        terminal.say(f"(the move and the check took {time.monotonic() - began:.1f} s)")
        chains = {host.name: _policy_chains(self._lab, host.name) for host in self._lab.hosts}
        terminal.promise(
            any("database" in name for name in chains["h1"])
            and not any("database" in name for name in chains["h3"]),
            "the rules went with it: they are on h1 now, and gone from h3",
        )

    def _kill(self) -> None:
        terminal = self._terminal
        terminal.chapter("The agent is killed", "With -9, on the database's host.")
        lab = self._lab
        host = lab.host("h1")
        pid = cluster.agent_pid(lab, host)
        if pid is None:
            raise PromiseBroken("the agent of h1 does not run")
        terminal.show(f"kill -9 {pid}")
        processes.stop([pid], signal.SIGKILL)
        terminal.promise(
            self._reached("tcp:5432", to=["db"]) == {f"{name} → shop/db" for name in WEB},
            "enforcement stands: nothing opened, nothing broke",
        )
        began = time.monotonic()
        cluster.wait_ready(lab, {host: cluster.start_agent(lab, host)})
        terminal.say(f"A new agent adopts what is there ({time.monotonic() - began:.1f} s).")
        terminal.promise(
            self._reached("tcp:5432", to=["db"]) == {f"{name} → shop/db" for name in WEB},
            "and goes on",
        )

    def _probe_once(self, source: str, target: str, port: str) -> bool:
        lab = self._lab
        path = netns.named_path(lab.workload_namespace(lab.workload(source)))
        asked = probe.Probe(
            path, workloads.address_of(lab.workload(target)), probe.parse_port(port)
        )
        return probe.run([asked])[0]

    def _settle(self) -> None:
        """Let every host enforce what is committed: wait until each says so."""
        cluster.wait_enforced(self._lab)

    def _measure(self, source: str, target: str) -> None:
        """Open and close a path by a policy of its own, and say how long it took to be felt."""
        key = ResourceKey("GlobalNetworkPolicy", "security.measured")
        closing, opening = (codec.encode(key, _port_policy(port)) for port in (1, MEASURED_PORT))
        self._say_latency(latency.Change(key.path, closing, opening), source, target)
        asyncio.run(self._forget(key))

    def _measure_label(self, source: str, target: str) -> None:
        """The same by a label: is the source selected, or not?"""
        lab = self._lab
        key = workloads.endpoint_key(lab.workload(source))
        values = asyncio.run(self._with_roles(key, ("retired", "web")))
        self._say_latency(latency.Change(key.path, *values), source, target)

    def _say_latency(self, change: latency.Change, source: str, target: str) -> None:
        lab = self._lab
        a, b = lab.workload(source), lab.workload(target)

        async def measure() -> list[float]:
            client = await connect(from_environment(cluster.environment(lab)))
            try:
                with latency.Path(
                    netns.named_path(lab.workload_namespace(a)),
                    netns.named_path(lab.workload_namespace(b)),
                    workloads.address_of(b),
                    MEASURED_PORT,
                ) as path:
                    return await latency.commit_to_first_packet(
                        client, change, path, MEASURED_TIMES
                    )
            finally:
                await client.close()

        found = asyncio.run(measure())
        self._terminal.say(f"From commit to the first packet: {latency.summary(found)}.")

    async def _with_roles(self, key: ResourceKey, roles: Sequence[str]) -> list[bytes]:
        """The stored endpoint with one role and with another."""
        client = await connect(from_environment(cluster.environment(self._lab)))
        try:
            entry = await client.get(key.path)
        finally:
            await client.close()
        assert entry is not None, "the workload is there"
        endpoint = codec.decode(key, entry.value)
        values = []
        for role in roles:
            labels = {**endpoint.metadata.labels, "role": role}
            metadata = msgspec.structs.replace(endpoint.metadata, labels=labels)
            changed = msgspec.structs.replace(endpoint, metadata=metadata)
            values.append(codec.encode(key, changed, entry.value))
        return values

    async def _forget(self, key: ResourceKey) -> None:
        client = await connect(from_environment(cluster.environment(self._lab)))
        try:
            await client.delete(key.path)
        finally:
            await client.close()


def _port_policy(port: int) -> GlobalNetworkPolicy:
    """The printer takes UDP on one port, of anybody, and whatever it took before."""
    return GlobalNetworkPolicy(
        kind="GlobalNetworkPolicy",
        metadata=Metadata(name="security.measured"),
        spec=GlobalNetworkPolicySpec(
            tier="security",
            order=1,
            selector="role == 'printer'",
            types=("Ingress",),
            ingress=(
                Rule(action="Allow", protocol="UDP", destination=EntityRule(ports=(port,))),
                Rule(
                    action="Deny",
                    protocol="UDP",
                    destination=EntityRule(ports=(MEASURED_PORT,)),
                ),
            ),
        ),
    )


def _routes(lab: Lab, host: str) -> list[str]:
    """What `ip route` would show, without the segment's own."""

    def read() -> list[str]:
        with Rtnl.open() as rtnl:
            names = {link.index: link.name for link in rtnl.links()}
            found = [
                route
                for route in rtnl.routes(4, table=TABLE_MAIN)
                if route.protocol not in (PROTOCOL_KERNEL, PROTOCOL_BOOT)
            ]
        return [
            _route_text(route, names)
            for route in sorted(found, key=lambda route: route.destination)
        ]

    return netns.run_in(netns.named_path(lab.host_namespace(host)), read)


def _route_text(route: Route, names: Mapping[int, str]) -> str:
    """As iproute2 writes it."""
    text = f"{'blackhole ' if route.kind is Kind.BLACKHOLE else ''}{route.destination}"
    if route.gateway is not None:
        text += f" via {route.gateway.address_text}"
    if route.interface:
        text += f" dev {names[route.interface]}"
    return f"{text} proto {'bird' if route.protocol == PROTOCOL_BIRD else route.protocol}"


def _policy_chains(lab: Lab, host: str) -> list[str]:
    """The policies whose chains are in the host's kernel, by the comments of their rules."""

    def read() -> set[str]:
        nft = Nft.open()
        try:
            rules = asyncio.run(nft.rules(INET))
        finally:
            nft.close()
        return {rule.comment for rule in rules if "Policy(" in rule.comment}

    return sorted(netns.run_in(netns.named_path(lab.host_namespace(host)), read))


def _wait_for_routes(lab: Lab) -> None:
    """Return when every host reaches every workload's address: by BGP that takes a moment."""
    give_up = time.monotonic() + 30
    wanted = {workloads.address_of(workload) for workload in lab.workloads}
    for host in lab.hosts:
        while not all(_has_route(lab, host.name, address) for address in wanted):
            if time.monotonic() > give_up:
                raise PromiseBroken(f"{host.name} has no route to every workload")
            time.sleep(0.02)


def _has_route(lab: Lab, host: str, address: Network) -> bool:
    """Whether the most specific route of ours leads somewhere."""

    def read() -> bool:
        with Rtnl.open() as rtnl:
            routes = [
                route
                for route in rtnl.routes(address.family, table=TABLE_MAIN)
                if route.destination.contains(address) and route.destination.length
            ]
        best = max(routes, key=lambda route: route.destination.length, default=None)
        return best is not None and best.kind is Kind.UNICAST

    return netns.run_in(netns.named_path(lab.host_namespace(host)), read)
