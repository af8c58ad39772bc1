"""One host: the DHCP agent in a thread, a datastore, and dnsmasqs that are real."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tests.dhcp.tap import TapGuest

from tortie.attach.inside import HOST_MAC
from tortie.datastore.client import Delete, Put, Txn
from tortie.datastore.embedded import EmbeddedClient
from tortie.dhcp.agent import DhcpAgent
from tortie.dhcp.served import Defaults
from tortie.dhcp.settings import Settings
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange, parse_mac
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import SCOPE_LINK, Route
from tortie.kernel.rtnl.tap import create_tap
from tortie.lib.ip import parse_address
from tortie.model import codec
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.openstack.labels import NETWORK_ANNOTATION
from tortie.openstack.subnets import SubnetValue, subnet_path

T = TypeVar("T")

NETWORK = "4f0c6f0e-7f5e-4b8e-9a5e-0d3e1f2a3b4c"
SUBNET4 = SubnetValue(
    network_id=NETWORK,
    cidr="10.65.0.0/16",
    gateway_ip="10.65.0.1",
    dns_servers=("8.8.8.8",),
    host_routes=({"destination": "10.9.0.0/16", "nexthop": "10.65.0.9"},),
)
SUBNET6 = SubnetValue(
    network_id=NETWORK, cidr="fd00:65::/64", gateway_ip="fd00:65::1", dns_servers=("fd00::53",)
)
PATIENCE_SECONDS = 20.0


def mac_of(number: int) -> str:
    return f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"


def tap_of(number: int) -> str:
    return f"tap{number:08}"


def endpoint(number: int, *, network: str = NETWORK, **spec: Any) -> WorkloadEndpoint:
    """An OpenStack port."""
    host = 10 + number
    fields: dict[str, Any] = {
        "orchestrator": "openstack",
        "workload": f"vm{number}",
        "node": "h1",
        "endpoint": f"port{number}",
        "interface_name": tap_of(number),
        "mac": mac_of(number),
        "ip_networks": (f"10.65.{host >> 8}.{host & 255}/32", f"fd00:65::{host:x}/128"),
    }
    return WorkloadEndpoint(
        kind="WorkloadEndpoint",
        metadata=Metadata(
            name=f"h1-openstack-vm{number}-port{number}",
            namespace="openstack",
            annotations={NETWORK_ANNOTATION: network},
        ),
        spec=WorkloadEndpointSpec(**{**fields, **spec}),
    )


class Host:
    """In the namespace that the test is in."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self._settings = Settings(
            **{
                "host": "h1",
                "defaults": Defaults(dns=(parse_address("10.0.0.53"),)),
                **settings,
            }
        )
        self._guests: dict[int, TapGuest] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.agent: DhcpAgent | None = None
        self.with_client(lambda client: client.revision())

    # The agent.

    def start(self) -> None:
        """Returns at once; it works in a thread of the same namespace."""
        begun = threading.Event()

        async def run() -> None:
            client = EmbeddedClient(self.directory / "datastore.db")
            self.agent = DhcpAgent(self._settings, client, self.directory / "run", lambda: ("tap",))
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(self.agent.run())
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await client.close()

        self._thread = threading.Thread(target=lambda: asyncio.run(run()))
        self._thread.start()
        assert begun.wait(10)

    def start_process(self) -> "subprocess.Popen[bytes]":
        """The program itself, so that it can be killed; the caller does."""
        environment = {
            "DATASTORE_TYPE": "embedded",
            "TORTIE_EMBEDDED_PATH": str(self.directory / "datastore.db"),
            "FELIX_FELIXHOSTNAME": "h1",
            "FELIX_INTERFACEPREFIX": "tap",
        }
        command = [sys.executable, "-m", "tortie", "dhcp", "serve", "--dns", "10.0.0.53"]
        command += ["--run-directory", str(self.directory / "process")]
        command += ["--state-directory", str(self.directory)]
        return subprocess.Popen(command, env={**os.environ, **environment})

    def stop(self) -> None:
        if self._thread is not None:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        for guest in self._guests.values():
            guest.close()

    # The datastore.

    def with_client(self, act: Callable[[EmbeddedClient], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            client = EmbeddedClient(self.directory / "datastore.db", create=True)
            try:
                return await act(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def put_subnets(self, **subnets: SubnetValue) -> None:
        puts = [
            Put(subnet_path(name, "no-region"), msgspec.json.encode(one))
            for name, one in subnets.items()
        ]
        self.with_client(lambda client: client.transact(Txn(success=puts)))

    def put(self, *endpoints: WorkloadEndpoint) -> None:
        puts = []
        for one in endpoints:
            key = ResourceKey("WorkloadEndpoint", one.metadata.name, one.metadata.namespace)
            puts.append(Put(key.path, codec.encode(key, one)))
        self.with_client(lambda client: client.transact(Txn(success=puts)))

    def delete(self, *endpoints: WorkloadEndpoint) -> None:
        keys = [
            ResourceKey("WorkloadEndpoint", one.metadata.name, "openstack") for one in endpoints
        ]
        gone = [Delete(key.path) for key in keys]
        self.with_client(lambda client: client.transact(Txn(success=gone)))

    # Guests.

    def guest(self, number: int, address: str = "") -> TapGuest:
        """With a tap as Nova makes it, up, on this host, and the route that the host's agent
        makes."""
        address = address or f"10.65.{10 + number >> 8}.{10 + number & 255}"
        if number not in self._guests:
            name = tap_of(number)
            create_tap(name)
            with Rtnl.open() as rtnl:
                index = rtnl.link(name).index
                rtnl.change_link(index, LinkChange(mac=HOST_MAC))
                rtnl.change_link(index, LinkChange(up=True))
                rtnl.replace_route(
                    Route(destination=parse_address(address), interface=index, scope=SCOPE_LINK)
                )
                mac = parse_mac(mac_of(number))
                there = Neighbour(interface=index, address=parse_address(address), mac=mac)
                rtnl.replace_neighbours([there])
            with open(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "w") as file:
                file.write("0")
            self._guests[number] = TapGuest(name, mac_of(number))
        return self._guests[number]

    def pids(self, directory: str = "run") -> dict[str, int]:
        """Of dnsmasqs, by their network."""
        found = {}
        for file in (self.directory / directory).glob("**/pid"):
            with contextlib.suppress(ValueError, OSError):
                pid = int(file.read_text())
                os.kill(pid, 0)
                found[file.parent.name] = pid
        return found


def eventually(holds: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """What it returns as soon as that is something."""
    give_up = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < give_up:
        time.sleep(0.05)
    return found
