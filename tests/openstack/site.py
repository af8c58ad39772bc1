"""Hosts with agents, and a Neutron beside their etcd; guests are namespaces behind taps' names."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.live import LiveLab
from tests.openstack.server import Neutron, Release

from tortie.kernel import netns
from tortie.lab import cluster
from tortie.lab.description import ETCD_ORDINAL, FABRIC
from tortie.openstack.labels import interface_name

HOST_MAC = "00:61:fe:ed:ca:fe"
GATEWAYS = {4: "169.254.1.1", 6: "fe80::261:feff:feed:cafe"}
PATIENCE_SECONDS = 60.0


class Site(LiveLab):
    """A lab whose fabric has a Neutron beside its etcd."""

    neutron: Neutron

    def begin(self, release: Release, folder: Path) -> None:
        self.lab_ok("up", "--hosts", str(self.hosts), "--ipv6", "--datastore", "etcd")
        self.guests: list[Guest] = []
        self.neutron = Neutron(
            release,
            folder,
            f"site{release.version}",
            cluster.ETCD_PORT,
            etcd_host=FABRIC.address(ETCD_ORDINAL).address_text,
            namespace=netns.named_path(self.lab.fabric_namespace),
        ).start()
        self.eventually(self._agents_are_alive, "Neutron knows the agents")
        self.eventually(self._taps_are_known, "agents know taps as workloads' interfaces")

    def end(self) -> None:
        for guest in self.guests:
            guest.stop()
        with contextlib.suppress(AttributeError):
            self.neutron.stop()
        self.down()

    def eventually(self, holds: Any, what: str) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < give_up, what
            time.sleep(0.1)

    def _agents_are_alive(self) -> bool:
        alive = {each["host"] for each in self.neutron.list("agent") if each["alive"]}
        return {host.name for host in self.lab.hosts} <= alive

    def _taps_are_known(self) -> bool:
        tables = (
            self.command_in(host.name, "nft", "list", "table", "inet", "tortie").stdout
            for host in self.lab.hosts
        )
        return all('"tap' in table for table in tables)

    def boot(self, port: Mapping[str, Any], host: str) -> "Guest":
        """What Nova does, and the guest: its own name space behind the port's tap."""
        guest = Guest(self, port)
        self.guests.append(guest)
        guest.plug(host)
        self.becomes_active(port)
        return guest

    def becomes_active(self, port: Mapping[str, Any]) -> None:
        self.eventually(
            lambda: self.neutron.show("port", port["id"])["status"] == "ACTIVE",
            f"port {port['id']} is not active",
        )

    def status(self, port: Mapping[str, Any]) -> str:
        return str(self.neutron.show("port", port["id"])["status"])


class Guest:
    """A namespace with the port's addresses; answers HTTP on port 80."""

    def __init__(self, site: Site, port: Mapping[str, Any]) -> None:
        self.site = site
        self.port = port
        self.addresses = {
            6 if ":" in each["ip_address"] else 4: each["ip_address"] for each in port["fixed_ips"]
        }
        self.namespace = f"{site.lab.prefix}g-{port['id'][:8]}"
        self.path = netns.named_path(self.namespace)
        self.tap = interface_name(port["id"])
        self.host = ""
        self._server: subprocess.Popen[bytes] | None = None

    def plug(self, host: str) -> None:
        """Appear on a host, with the addresses and the MAC that it always has."""
        if not Path(self.path).exists():
            run("ip", "netns", "add", self.namespace)
            run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        on_host = ("ip", "-n", self.site.lab.host_namespace(host))
        inside = ("ip", "-n", self.namespace)
        peer = ("name", "eth0", "address", self.port["mac_address"], "netns", self.namespace)
        run(*on_host, "link", "add", self.tap, "address", HOST_MAC, "type", "veth", "peer", *peer)
        for family, address in self.addresses.items():
            length, gateway = (32 if family == 4 else 128), GATEWAYS[family]
            run(*inside, "address", "add", f"{address}/{length}", "dev", "eth0", "nodad")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "neigh", "replace", gateway, "lladdr", HOST_MAC, "dev", "eth0",
                 "nud", "permanent")  # fmt: skip
            run(*inside, f"-{family}", "route", "add", gateway, "dev", "eth0")
            run(*inside, f"-{family}", "route", "add", "default", "via", gateway, "dev", "eth0")
        run(*on_host, "link", "set", self.tap, "up")
        self.host = host
        if self._server is None:
            self._server = netns.spawn_in(
                self.path,
                [sys.executable, "-m", "http.server", "80", "--bind", "::"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=str(self.site.lab.directory),
            )

    def unplug(self) -> None:
        run("ip", "-n", self.site.lab.host_namespace(self.host), "link", "del", self.tap)

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        if Path(self.path).exists():
            run("ip", "netns", "del", self.namespace)

    def reaches(
        self, other: "Guest", family: int = 4, port: int = 80, seconds: float = 0.5
    ) -> bool:
        def ask() -> bool:
            kind = socket.AF_INET if family == 4 else socket.AF_INET6
            with socket.socket(kind, socket.SOCK_STREAM) as asking:
                asking.settimeout(seconds)
                return asking.connect_ex((other.addresses[family], port)) == 0

        return netns.run_in(self.path, ask)

    def connect(self, other: "Guest") -> socket.socket:
        """A connection that stays."""
        return netns.run_in(
            self.path, lambda: socket.create_connection((other.addresses[4], 80), timeout=5)
        )


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
