"""Two hosts of a lab with DHCP agents, and what an OpenStack would write into their datastore."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
from tests.e2e.live import LiveLab

from tortie.attach.inside import HOST_MAC
from tortie.datastore.client import Put, Txn
from tortie.datastore.resources import Resources, key_of
from tortie.kernel import netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange
from tortie.kernel.rtnl.tap import create_tap
from tortie.lab import cluster, processes
from tortie.lib.errors import NotFound
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource
from tortie.openstack.endpoints import translate_port
from tortie.openstack.inventory import FixedIP, Port, SecurityGroup, SecurityGroupRule, Subnet
from tortie.openstack.labels import interface_name
from tortie.openstack.policies import translate_group
from tortie.openstack.settings import Settings
from tortie.openstack.subnets import subnet_path, translate_subnet

SETTINGS = Settings()
NETWORK = "4f0c6f0e-7f5e-4b8e-9a5e-0d3e1f2a3b4c"
WEB, CLIENT = "11111111-web", "22222222-client"
PREFIXES = '{"spec": {"interfacePrefix": "cali,tap"}}'


class Cloud(LiveLab):
    """With agents that know taps as workloads' interfaces."""

    def begin(self) -> None:
        self.lab_ok("up", "--hosts", str(self.hosts), "--ipv6")
        self.ok("patch", "felixconfiguration", "default", "-p", PREFIXES)
        self.eventually(self._prefixes_are_in_force, "agents have their new prefix")
        self.settle()
        self.dhcp = {host.name: self.start_dhcp(host.name) for host in self.lab.hosts}

    def _prefixes_are_in_force(self) -> bool:
        texts = [
            self.command_in(host.name, "nft", "list", "table", "inet", "tortie").stdout
            for host in self.lab.hosts
        ]
        return all('"tap' in text for text in texts)

    def start_dhcp(self, host: str) -> int:
        directory = self.lab.host_directory(host)
        options = ["--run-directory", str(directory), "--state-directory", str(directory / "state")]
        return processes.start(
            self.lab.host_namespace(host),
            [
                sys.executable,
                "-m",
                "tortie",
                "dhcp",
                "serve",
                "--log-dhcp",
                "--dns",
                "10.0.0.53",
                *options,
            ],
            directory / "dhcp.log",
            environment={**cluster.environment(self.lab), "FELIX_FELIXHOSTNAME": host},
        )

    def serve_files(self, host: str, port: int, directory: Path) -> None:
        """As an API of Nova on this host, in the most modest way."""
        command = ["busybox", "httpd", "-f", "-p", str(port), "-h", str(directory)]
        processes.start(self.lab.host_namespace(host), command, directory / "log")

    def dnsmasqs(self, host: str) -> dict[str, int]:
        found = {}
        for file in (self.lab.host_directory(host) / "dhcp").glob("*/pid"):
            pid = int(file.read_text() or 0)
            if pid and Path(f"/proc/{pid}").exists():
                found[file.parent.name] = pid
        return found

    # Neutron's part.

    def store(self, resources: Iterable[Resource]) -> None:
        async def write() -> None:
            async with cluster.resources(self.lab) as store:
                for one in resources:
                    await store.apply(one)

        asyncio.run(write())

    def forget(self, *keys: ResourceKey) -> None:
        async def write() -> None:
            async with cluster.resources(self.lab) as store:
                for key in keys:
                    await _delete(store, key)

        asyncio.run(write())

    def store_subnets(self, *subnets: Subnet) -> None:
        async def write() -> None:
            async with cluster.resources(self.lab) as store:
                for subnet in subnets:
                    value = msgspec.json.encode(translate_subnet(subnet))
                    path = subnet_path(subnet.id, SETTINGS.region)
                    await store.client.transact(Txn(success=[Put(path, value)]))

        asyncio.run(write())

    def store_groups(self, *, allow: bool) -> None:
        """Clients may ask the web servers, or not."""
        out = [SecurityGroupRule(id=f"o{f}", direction="egress", ethertype=f"IPv{f}") for f in "46"]
        web = [
            SecurityGroupRule(
                id=f"i{family}", ethertype=f"IPv{family}", protocol="tcp", port_range_min=80,
                port_range_max=80, remote_group_id=CLIENT,
            )
            for family in "46"
        ]  # fmt: skip
        self.store(
            [
                *translate_group(
                    SecurityGroup(id=WEB, rules=(*out, *(web if allow else ()))), "openstack"
                ).resources,
                *translate_group(SecurityGroup(id=CLIENT, rules=tuple(out)), "openstack").resources,
            ]
        )

    def store_port(self, port: Port) -> list[ResourceKey]:
        """Its endpoint, two of them and a LiveMigration while it moves."""
        resources = translate_port(port, SETTINGS).resources
        self.store(resources)
        return [key_of(one) for one in resources]

    # Nova's part.

    def make_tap(self, host: str, port: Port) -> str:
        name = interface_name(port.id)

        def make() -> None:
            create_tap(name)
            with Rtnl.open() as rtnl:
                index = rtnl.link(name).index
                rtnl.change_link(index, LinkChange(mac=HOST_MAC))
                rtnl.change_link(index, LinkChange(up=True))

        self.in_host(host, make)
        return name

    def remove_tap(self, host: str, port: Port) -> None:
        def remove() -> None:
            with Rtnl.open() as rtnl, contextlib.suppress(NotFound):
                rtnl.delete_link(interface_name(port.id))

        self.in_host(host, remove)


async def _delete(store: Resources, key: ResourceKey) -> None:
    with contextlib.suppress(NotFound):
        await store.delete(key)


def port(number: int, host: str, group: str, migrating_to: str = "") -> Port:
    return Port(
        id=f"{number:08x}-port",
        host=host,
        migrating_to=migrating_to,
        device_id=f"vm{number}",
        device_owner="compute:nova",
        network_id=NETWORK,
        mac_address=f"fa:16:3e:00:00:{number:02x}",
        fqdn=f"vm-{number}.example.org.",
        fixed_ips=(
            FixedIP(address=f"10.65.200.{number}", subnet_id="s4", gateway="10.65.200.254"),
            FixedIP(address=f"fd65::c8:{number:x}", subnet_id="s6", gateway="fd65::c8:fffe"),
        ),
        security_groups={group: "a group"},
    )


SUBNETS = (
    Subnet(
        id="s4", network_id=NETWORK, cidr="10.65.200.0/24", gateway_ip="10.65.200.254",
        dns_nameservers=("10.0.0.99",), mtu=1400,
    ),
    Subnet(id="s6", network_id=NETWORK, cidr="fd65::/64", gateway_ip="fd65::c8:fffe"),
)  # fmt: skip


def asks(path: str, address: str) -> bool:
    """Does a workload's namespace get the guest's page?"""
    command = ["busybox", "nc", "-w", "1", address, "80"]
    done = netns.run_in(
        path,
        lambda: subprocess.run(
            command, input=b"GET / HTTP/1.0\r\n\r\n", capture_output=True, env={**os.environ}
        ),
    )
    return b"here" in done.stdout
