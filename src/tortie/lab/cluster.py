"""Bring a lab up, say how it is, take it down.

`up` is in the order of a real cluster: wires, datastore, what an operator
writes into it (nodes, pools, how routes are made), then an agent per host.
Whatever goes wrong on the way, `down` removes all that is there.
"""

import asyncio
import contextlib
import http.client
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tortie.agent.ingest import PREFIXES
from tortie.datastore.connect import connect, from_environment
from tortie.datastore.resources import Resources
from tortie.kernel import netns
from tortie.lab import description, processes, topology
from tortie.lab.description import ETCD_ORDINAL, FABRIC, FABRIC6, POOL, POOL6, Host, Lab
from tortie.lib.errors import NotFound, TortieError, Unavailable
from tortie.model.bgp_configuration import BGPConfiguration, BGPConfigurationSpec
from tortie.model.felix_configuration import FelixConfiguration, FelixConfigurationSpec
from tortie.model.keys import AffinityKey, ResourceKey, parse_key
from tortie.model.metadata import Metadata, Resource
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeBGP, NodeSpec

READY_SECONDS = 60.0
HEALTH_PORT = 9099
ETCD_PORT = 2379
_TOOLS_SOCKET = "tools:0"
"""etcd makes a unix socket of this name in its directory: host and port, of nothing."""

Report = Callable[[str], None]


def up(lab: Lab, report: Report) -> None:
    """Make the lab and wait until every host enforces.

    Raises:
        AlreadyExists: the name is taken.
        TortieError: something did not start; everything is taken down again.
    """
    check_programs(lab)
    description.create(lab)
    try:
        report(f"wiring {len(lab.hosts)} hosts to one segment")
        topology.build_fabric(lab)
        for host in lab.hosts:
            topology.build_host(lab, host)
        report(f"starting the datastore ({lab.datastore})")
        start_datastore(lab)
        report(f"starting an agent on each host, routes by {lab.routing}")
        wait_ready(lab, {host: start_agent(lab, host) for host in lab.hosts})
    except BaseException:
        with contextlib.suppress(TortieError, OSError):
            down(lab.name)
        raise


def clean_up_when_stopped() -> None:
    """Have Ctrl-C, SIGTERM and SIGHUP end this process through every `finally`.

    Ctrl-C too: asyncio takes over Python's own handler, and an interrupt that
    comes just when its task is done would be lost.
    """

    def stop(number: int, _: object) -> None:
        # Wherever it strikes: what it cuts short has nothing more to say.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        sys.unraisablehook = lambda _: None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def check_programs(lab: Lab) -> None:
    """
    Raises:
        NotFound: what the lab needs beside Python is not installed.
    """
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if lab.datastore == "etcd" and shutil.which("etcd", path=search) is None:
        raise NotFound("--datastore etcd needs etcd; on Debian: apt-get install etcd-server")
    if lab.routing == "bgp" and shutil.which("bird", path=search) is None:
        raise NotFound("--routing bgp needs BIRD 2; on Debian: apt-get install bird2")


def down(name: str) -> None:
    """Remove a lab, or whatever is left of one: processes, namespaces, files."""
    prefix = f"tortie.{description.check_name(name)}."
    processes.stop_all(prefix)
    topology.remove_namespaces(prefix)
    shutil.rmtree(description.ROOT / name, ignore_errors=True)
    # The directories above are shared: they go with the last who uses them.
    for directory in (description.ROOT, description.ROOT.parent):
        with contextlib.suppress(OSError):
            directory.rmdir()


def exists(name: str) -> bool:
    """Whether anything of a lab of this name is there."""
    prefix = f"tortie.{description.check_name(name)}."
    return (description.ROOT / name).exists() or bool(topology.namespaces(prefix))


def execute(
    namespace: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> int:
    """Run a command in a namespace, on our terminal; returns its exit status.

    Args:
        environment: beside ours.
    """
    try:
        process = netns.spawn_in(
            netns.named_path(namespace),
            command,
            stdin=None,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise NotFound(f"there is no program {command[0]}") from None
    with contextlib.suppress(KeyboardInterrupt):  # the command gets it as well
        return process.wait()
    return process.wait()


def environment(lab: Lab) -> dict[str, str]:
    """The settings with which any command of this machine works on the lab."""
    if lab.datastore == "etcd":
        socket = lab.directory / "etcd" / _TOOLS_SOCKET
        return {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": f"unix://{socket}"}
    return {
        "DATASTORE_TYPE": "embedded",
        "TORTIE_EMBEDDED_PATH": str(lab.directory / "datastore.db"),
    }


@contextlib.asynccontextmanager
async def resources(lab: Lab, *, create: bool = False) -> AsyncIterator[Resources]:
    """The lab's datastore, as resources."""
    client = await connect(from_environment(environment(lab)), create=create)
    try:
        yield Resources(client)
    finally:
        await client.close()


def start_datastore(lab: Lab) -> None:
    """Start etcd, or make the embedded store; then write what an operator would."""
    if lab.datastore == "etcd":
        start_etcd(lab)
    asyncio.run(_write_cluster(lab))


def start_etcd(lab: Lab) -> None:
    """Start it, with the data that it had if it ran before."""
    directory = lab.directory / "etcd"
    directory.mkdir(mode=0o700, exist_ok=True)
    # One that was killed leaves it, and the next one would not start.
    (directory / _TOOLS_SOCKET).unlink(missing_ok=True)
    address = FABRIC.address(ETCD_ORDINAL).address_text
    url = f"http://{address}:{ETCD_PORT}"
    peer_url = f"http://{address}:{ETCD_PORT + 1}"
    processes.start(
        lab.fabric_namespace,
        [
            *["etcd", "--name", "lab", "--data-dir", "data"],
            *["--listen-client-urls", f"{url},unix://{_TOOLS_SOCKET}"],
            *["--advertise-client-urls", url],
            *["--listen-peer-urls", peer_url],
            *["--initial-advertise-peer-urls", peer_url],
            *["--initial-cluster", f"lab={peer_url}"],
        ],
        lab.directory / "etcd.log",
        directory=directory,
    )


async def _write_cluster(lab: Lab) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while True:
        try:
            async with resources(lab, create=True) as store:
                await store.ensure_initialized()
                for resource in _cluster(lab):
                    await store.apply(resource)
            return
        except Unavailable:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.05)


def _cluster(lab: Lab) -> Iterator[Resource]:
    by_agent = lab.routing == "direct"
    yield FelixConfiguration(
        kind="FelixConfiguration",
        metadata=Metadata(name="default"),
        spec=FelixConfigurationSpec(
            program_cluster_routes="Enabled" if by_agent else "Disabled",
            health_enabled=True,
            health_port=HEALTH_PORT,
            ipv6_support=lab.ipv6,
        ),
    )
    yield BGPConfiguration(
        kind="BGPConfiguration",
        metadata=Metadata(name="default"),
        spec=BGPConfigurationSpec(
            program_cluster_routes="Disabled" if by_agent else "Enabled",
        ),
    )
    for host in lab.hosts:
        bgp = NodeBGP(
            ipv4_address=f"{host.ipv4.address_text}/{FABRIC.length}",
            ipv6_address=f"{host.ipv6.address_text}/{FABRIC6.length}" if lab.ipv6 else "",
        )
        yield Node(kind="Node", metadata=Metadata(name=host.name), spec=NodeSpec(bgp=bgp))
    yield _pool("lab-ipv4", str(POOL))
    if lab.ipv6:
        yield _pool("lab-ipv6", str(POOL6))


def _pool(name: str, cidr: str) -> IPPool:
    return IPPool(kind="IPPool", metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr))


def start_agent(lab: Lab, host: Host) -> int:
    """Start a host's agent (and with it its keeper and BIRD); returns its process id."""
    directory = lab.host_directory(host.name)
    directory.mkdir(mode=0o700, exist_ok=True)
    settings: Mapping[str, str] = environment(lab)
    if lab.datastore == "etcd":
        address = FABRIC.address(ETCD_ORDINAL).address_text
        settings = {**settings, "ETCD_ENDPOINTS": f"http://{address}:{ETCD_PORT}"}
    return processes.start(
        lab.host_namespace(host.name),
        [
            *[sys.executable, "-m", "tortie", "agent"],
            *["--run-directory", str(directory)],
            *["--state-directory", str(directory / "state")],
        ],
        directory / "agent.log",
        environment={**settings, "FELIX_FELIXHOSTNAME": host.name},
    )


def agent_pid(lab: Lab, host: Host) -> int | None:
    """The agent's process id; None if it does not run."""
    try:
        pid = int((lab.host_directory(host.name) / "agent.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if pid in processes.inside([lab.host_namespace(host.name)]) else None


def restart_agent(lab: Lab, host: Host, *, kill: bool = False) -> int:
    """End a host's agent if it runs, start it anew, wait until it enforces; its process id.

    Args:
        kill: with SIGKILL, as a crash would.

    Raises:
        Unavailable: the new one does not become ready, with the end of its log.
    """
    pid = agent_pid(lab, host)
    if pid is not None:
        processes.stop([pid], signal.SIGKILL if kill else signal.SIGTERM)
    started = start_agent(lab, host)
    wait_ready(lab, {host: started})
    return started


def wait_ready(lab: Lab, agents: Mapping[Host, int]) -> None:
    """Return when every agent is ready.

    Args:
        agents: their process ids.

    Raises:
        Unavailable: one is not, with the end of its log.
    """
    give_up = time.monotonic() + READY_SECONDS
    for host, pid in agents.items():
        while not (found := health(lab, host)).ready:
            if time.monotonic() > give_up or not processes.alive(pid):
                raise Unavailable(
                    f"the agent of {host.name} is not ready: {found.detail}; "
                    f"its log ends: {_log_end(lab, host)}"
                )
            time.sleep(0.02)


class HostHealth(NamedTuple):
    ready: bool
    detail: str


def health(lab: Lab, host: Host) -> HostHealth:
    """What the agent's readiness endpoint says."""
    status, text = ask_agent(lab, host, "/readiness")
    return HostHealth(status == 200, text.replace("\n", "; "))


def wait_enforced(lab: Lab) -> None:
    """Return when every host enforces what is stored now.

    Raises:
        Unavailable: one does not in time.
    """
    wanted = asyncio.run(_newest_revision(lab))
    give_up = time.monotonic() + READY_SECONDS
    for host in lab.hosts:
        while True:
            status, text = ask_agent(lab, host, "/enforced")
            if status == 200 and int(text) >= wanted:
                break
            if time.monotonic() > give_up:
                raise Unavailable(f"{host.name} does not enforce revision {wanted}: {text}")
            time.sleep(0.005)


async def _newest_revision(lab: Lab) -> int:
    """Of all that agents watch."""
    client = await connect(from_environment(environment(lab)))
    try:
        listed = [await client.list(prefix, keys_only=True) for prefix in PREFIXES]
    finally:
        await client.close()
    # Agents take no notice of keys of a kind that they do not know.
    revisions = (
        entry.mod_revision
        for found in listed
        for entry in found.entries
        if isinstance(parse_key(entry.key), ResourceKey | AffinityKey)
    )
    return max(revisions, default=0)


def ask_agent(lab: Lab, host: Host, path: str) -> tuple[int, str]:
    """HTTP status and text, asked from inside the host; status 0 if there is no answer."""

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("localhost", HEALTH_PORT, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace").strip()
        except OSError as error:
            return 0, f"no answer ({error})"
        finally:
            connection.close()

    return netns.run_in(netns.named_path(lab.host_namespace(host.name)), ask)


def _log_end(lab: Lab, host: Host) -> str:
    try:
        lines = (lab.host_directory(host.name) / "agent.log").read_text().splitlines()
    except FileNotFoundError:
        return "(none)"
    return " | ".join(lines[-3:])
