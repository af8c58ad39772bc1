"""A host with workloads, as namespaces: what the dataplane tests are played on."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.desired.policy import Policy, PolicyId, PolicyList, Rule, TierPolicies
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.netns import create_anonymous, open_socket_in, run_in
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import VethPeer
from tortie.lib.ip import Network, parse_address

HOST_MAC = "ee:ee:ee:ee:ee:ee"
ALLOW_ALL = PolicyId("Profile", "allow-all")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
SILENCE_SECONDS = 0.15


class Workload:
    """A namespace with one interface, joined to the calling thread's namespace."""

    def __init__(self, number: int, rtnl: Rtnl) -> None:
        self.interface = f"cali{number}"
        self.mac = f"02:00:00:00:00:{number:02x}"
        self.ipv4 = parse_address(f"10.65.0.{number}")
        self.ipv6 = parse_address(f"fd00:65::{number}")
        self.id = EndpointId("default", f"w{number}")
        self.namespace = create_anonymous()
        rtnl.create_veth(
            self.interface,
            VethPeer(
                name="eth0",
                namespace=self.namespace,
                mac=bytes.fromhex("0200000000" + f"{number:02x}"),
            ),
            mac=bytes.fromhex(HOST_MAC.replace(":", "")),
        )
        self.run(
            f"""ip link set lo up; ip link set eth0 up
            ip addr add {self.ipv4} dev eth0; ip -6 addr add {self.ipv6} dev eth0 nodad
            ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1
            ip neigh add 169.254.1.1 lladdr {HOST_MAC} dev eth0
            ip -6 neigh add fe80::1 lladdr {HOST_MAC} dev eth0
            ip -6 route add default via fe80::1 dev eth0"""
        )
        subprocess.run(["ip", "link", "set", self.interface, "up"], check=True)

    def address(self, family: int) -> Network:
        return self.ipv4 if family == 4 else self.ipv6

    def run(self, script: str) -> None:
        """Run shell commands inside; each must succeed."""
        run_in(self.namespace, lambda: subprocess.run(["sh", "-ec", script], check=True))

    def socket(self, family: int, kind: int) -> socket.socket:
        made = open_socket_in(self.namespace, FAMILIES[family], kind)
        made.settimeout(SILENCE_SECONDS)
        return made

    def endpoint(self, ingress: PolicyList, egress: PolicyList) -> Endpoint:
        return Endpoint(self.interface, (self.ipv4, self.ipv6), self.mac, ingress, egress)


def hears(source: Workload, target: Workload, port: int, family: int = 4) -> bool:
    """Whether one UDP datagram on a new connection arrives."""
    to = target.address(family).address_text
    with (
        target.socket(family, socket.SOCK_DGRAM) as server,
        source.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((to, port))
        client.sendto(b"hello", (to, port))
        try:
            return server.recv(16) == b"hello"
        except TimeoutError:
            return False


class Host:
    """The calling thread's namespace with a dataplane that programs it."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(host="h1")
        self.nft = Nft.open()
        self.rtnl = Rtnl.open()
        self.conntrack = Conntrack.open()
        self.dataplane = self.restart()

    def restart(self) -> Dataplane:
        """A new dataplane that knows nothing, as after a restart of the agent."""
        self.dataplane = Dataplane(self.settings, self.nft, self.rtnl, self.conntrack)
        return self.dataplane

    def update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        self.dataplane.on_update(kind, name, value)

    def policy(
        self,
        name: str,
        *,
        ingress: tuple[Rule, ...] = (),
        egress: tuple[Rule, ...] = (),
        tier: str = "default",
    ) -> PolicyId:
        policy_id = PolicyId("GlobalNetworkPolicy", name)
        self.update(Kind.POLICY, policy_id, Policy(ingress, egress, tier))
        return policy_id

    def allow_all_profile(self) -> None:
        allow = (Rule("Allow"),)
        self.update(Kind.POLICY, ALLOW_ALL, Policy(allow, allow))

    def endpoint(
        self,
        workload: Workload,
        *,
        ingress: PolicyList | None = None,
        egress: PolicyList | None = None,
    ) -> None:
        """Add it, allowing what is not given, with its routes."""
        open_list = PolicyList(profiles=(ALLOW_ALL,))
        value = workload.endpoint(ingress or open_list, egress or open_list)
        self.update(Kind.ENDPOINT, workload.id, value)
        for address in value.networks:
            route = Route(RouteType.LOCAL_WORKLOAD, interface=workload.interface)
            self.update(Kind.ROUTE, address, route)

    def remove(self, workload: Workload) -> None:
        for address in (workload.ipv4, workload.ipv6):
            self.update(Kind.ROUTE, address, None)
        self.update(Kind.ENDPOINT, workload.id, None)

    def apply(self) -> None:
        asyncio.run(self.dataplane.apply())

    def resync(self) -> None:
        asyncio.run(self.dataplane.resync())

    def generation(self) -> int:
        return asyncio.run(self.nft.generation())

    def close(self) -> None:
        self.nft.close()
        self.rtnl.close()
        self.conntrack.close()


@contextmanager
def workloads(host: Host, count: int) -> Iterator[list[Workload]]:
    made = [Workload(number + 1, host.rtnl) for number in range(count)]
    try:
        yield made
    finally:
        for one in made:
            os.close(one.namespace)


def tier(*policies: PolicyId, name: str = "default", default: str = "Deny") -> TierPolicies:
    assert default in ("Deny", "Pass")
    return TierPolicies(name, "Deny" if default == "Deny" else "Pass", policies)
