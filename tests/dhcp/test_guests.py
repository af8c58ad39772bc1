"""Stock guests, with a kernel and a DHCP client of their own, on two hosts of a lab."""

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.cni.test_machine import POLICY, tortie_workload
from tests.dhcp.cloud import CLIENT, NETWORK, SUBNETS, WEB, Cloud, asks, port
from tests.dhcp.host import eventually
from tests.dhcp.machine import Machine

from tortie.model.keys import ResourceKey
from tortie.openstack.inventory import FixedIP, SecurityGroup, SecurityGroupRule
from tortie.openstack.policies import translate_group

pytestmark = pytest.mark.timeout(300)
"""Seven machines start, one after the other."""

MAC = "02:54:00:00:00:07"
ASK = """
echo METADATA $(curl -s -m 2 http://169.254.169.254/)
for a in 169.254.1.1 10.65.200.254 172.30.0.2; do
  curl -s -m 1 http://$a:8775/ | grep -q instance && echo LEAK $a
done
while true; do
  for a in 10.65.200.1 '[fd65::c8:1]'; do
    said=CUT
    curl -s -m 1 http://$a/ | grep -q here && said=REACHED
    echo $said $a
  done
  sleep 0.3
done &
"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    made = Cloud(f"dg{os.getpid()}", "embedded", "direct", hosts=2)
    try:
        made.begin()
        yield made
    finally:
        made.down()


def configured(cloud: Cloud, machine: Machine) -> str:
    logs = [cloud.lab.host_directory(host.name) / "dhcp.log" for host in cloud.lab.hosts]
    assert eventually(lambda: machine.is_configured, 60), "\n".join(
        [machine.log, *(file.read_text()[-4000:] for file in logs)]
    )
    return machine.log


def tap_route(cloud: Cloud, host: str) -> bool:
    """Does the guest's address lead to a tap of this host?"""
    found = cloud.command_in(host, "ip", "route", "show", "10.65.200.1/32").stdout
    return " dev tap" in found


def test_a_guest_of_any_hypervisor(cloud: Cloud, tmp_path: Path) -> None:
    """`tortie workload add --tap --dhcp`: it configures itself, is reached, policed, moves; and
    what serves it may be killed."""
    friend, other = (cloud.add(name, "h2", role=name) for name in ("friend", "other"))
    cloud.apply(POLICY, tmp_path)
    add = ("add", "vm", "-n", "red", "--label", "app=guest", "--profile", "kns.red", "--mac", MAC,
           "--tap", "--ipv6", "--dhcp", "-o", "json")  # fmt: skip

    def attach(host: str, *more: str) -> tuple[str, list[str]]:
        [found] = json.loads(tortie_workload(cloud, host, *add, *more))
        return found["interface"], [text.partition("/")[0] for text in found["addresses"]]

    def boot(host: str, tap: str, name: str, *, ipv6: bool = True) -> Machine:
        namespace = cloud.lab.host_namespace(host)
        return Machine(namespace, tap, MAC, tmp_path / name, ipv6=ipv6)

    def check(machine: Machine, *, ipv6: bool = True) -> None:
        log = configured(cloud, machine)
        six = (f"{addresses[1]}/128", "default via fe80::ecee:eeff:feee:eeee dev eth0 proto ra")
        four = (f"{addresses[0]}/32", "default via 169.254.1.1 dev eth0", "nameserver 10.0.0.53")
        for wanted in (*four, *(six if ipv6 else ())):
            assert wanted in log, f"{wanted}\n{log}"
        for address in addresses[: 2 if ipv6 else 1]:
            assert eventually(partial(asks, cloud.path(friend), address)), address
            assert not asks(cloud.path(other), address), "policy"

    tap, addresses = attach("h1")
    machine = boot("h1", tap, "first")
    try:
        check(machine)
        # The DHCP agent goes, and its dnsmasq; a guest that starts anew is served all the same.
        os.kill(cloud.dhcp["h1"], signal.SIGKILL)
        [left] = cloud.dnsmasqs("h1").values()
        machine.stop()
        machine = boot("h1", tap, "restarted", ipv6=False)
        check(machine, ipv6=False)
        assert cloud.dnsmasqs("h1") == {"host": left}
        cloud.dhcp["h1"] = cloud.start_dhcp("h1")
        assert eventually(lambda: cloud.dnsmasqs("h1").get("host", left) != left)
        cloud.stop_agent("h1")
        cloud.start_agent("h1")
        machine.stop()
        tortie_workload(cloud, "h1", "remove", "vm", "-n", "red", "--keep-addresses")
        tap, moved = attach("h2", *(part for one in addresses for part in ("--address", one)))
        assert moved == addresses
        machine = boot("h2", tap, "moved")
        check(machine)
        assert eventually(lambda: not cloud.dnsmasqs("h1")), "nobody is left there"
    finally:
        machine.stop()
    tortie_workload(cloud, "h2", "remove", "vm", "-n", "red")
    assert eventually(lambda: not cloud.dnsmasqs("h2"))


def test_guests_of_openstack(cloud: Cloud, tmp_path: Path) -> None:
    """By security group across hosts; cut when the rule goes; moved with its address (L14)."""
    cloud.store_subnets(*SUBNETS)
    cloud.store_groups(allow=True)
    web, client = port(1, "h1", WEB), port(2, "h2", CLIENT)
    directory = tmp_path / "metadata"
    directory.mkdir()
    (directory / "index.html").write_text("instance\n")
    cloud.serve_files("h2", 8775, directory)
    [web_key], _ = cloud.store_port(web), cloud.store_port(client)
    machines = []

    def boot(host: str, which: int, commands: str = "") -> Machine:
        one = {1: web, 2: client}[which]
        tap = cloud.make_tap(host, one)
        machine = Machine(
            cloud.lab.host_namespace(host), tap, one.mac_address, tmp_path / f"{host}-{which}",
            ipv6=True, commands=commands,
        )  # fmt: skip
        machines.append(machine)
        return machine

    def answers(what: str) -> bool:
        lines = [line for line in asking.log.splitlines() if line.startswith(("REACHED", "CUT"))]
        return len(lines) >= 4 and all(line.startswith(what) for line in lines[-4:])

    try:
        serving = boot("h1", 1)
        asking = boot("h2", 2, ASK)
        log = configured(cloud, serving)
        for wanted in (
            "10.65.200.1/24", "fd65::c8:1/128", "default via 10.65.200.254 dev eth0",
            "169.254.169.254 via 10.65.200.254", "nameserver 10.0.0.99", "mtu 1400", "\nvm-1",
        ):  # fmt: skip
            assert wanted in log, f"{wanted}\n{log}"
        configured(cloud, asking)
        assert eventually(partial(answers, "REACHED"), 30), asking.log
        assert "METADATA instance" in asking.log
        assert "LEAK" not in asking.log, "the server is reached as 169.254.169.254 alone"
        cloud.store_groups(allow=False)
        assert eventually(partial(answers, "CUT"), 30), asking.log
        cloud.store_groups(allow=True)
        assert eventually(partial(answers, "REACHED"), 30), asking.log
        # On its way: the destination has the tap and the endpoint, and attracts nothing.
        keys = cloud.store_port(port(1, "h1", WEB, migrating_to="h2"))
        [migration] = [key for key in keys if key.kind == "LiveMigration"]
        moved = boot("h2", 1)
        assert "10.65.200.1/24" in configured(cloud, moved)
        cloud.settle()
        assert tap_route(cloud, "h1")
        assert not tap_route(cloud, "h2")
        assert eventually(partial(answers, "REACHED"), 30), asking.log
        # The source gives up.
        serving.stop()
        cloud.remove_tap("h1", web)
        cloud.forget(web_key)
        assert eventually(partial(tap_route, cloud, "h2"))
        cloud.forget(migration)
        assert eventually(partial(answers, "REACHED"), 30), asking.log
        assert eventually(lambda: NETWORK not in cloud.dnsmasqs("h1"))
    finally:
        for machine in machines:
            machine.stop()
        for host, one in (("h1", web), ("h2", web), ("h2", client)):
            cloud.remove_tap(host, one)
        for number, host in ((1, "h1"), (1, "h2"), (2, "h2")):
            name = f"{host}-openstack-vm{number}-{number:08x}--port"
            cloud.forget(ResourceKey("WorkloadEndpoint", name, "openstack"))


def test_a_guest_that_makes_its_own_address(cloud: Cloud, tmp_path: Path) -> None:
    """SLAAC: in the prefix that is advertised, from its MAC, as Neutron has foretold; by no other
    address it is reached, nor reaches anybody."""
    four, six = SUBNETS
    slaac = msgspec.structs.replace(six, ipv6_address_mode="slaac", ipv6_ra_mode="slaac")
    cloud.store_subnets(four, slaac)
    rule = SecurityGroupRule(id="i6", ethertype="IPv6", protocol="tcp", port_range_min=80,
                             port_range_max=80)  # fmt: skip
    everybody = SecurityGroup(id="33333333-everybody", rules=(rule,))
    cloud.store(translate_group(everybody, "openstack").resources)
    own = port(7, "h1", everybody.id)
    address = "fd65::f816:3eff:fe00:7"
    fixed = FixedIP(address=address, subnet_id="s6", gateway="fd65::c8:fffe")
    own = msgspec.structs.replace(own, fixed_ips=(own.fixed_ips[0], fixed))
    friend = cloud.add("slaac-friend", "h2")
    [key, *_] = cloud.store_port(own)
    tap = cloud.make_tap("h1", own)
    namespace = cloud.lab.host_namespace("h1")
    another = "ip -6 address add fd65::bad/128 dev eth0 nodad"
    machine = Machine(namespace, tap, own.mac_address, tmp_path / "m", slaac=True, commands=another)
    try:
        log = configured(cloud, machine)
        assert f"{address}/64" in log
        assert "default via fe80::ecee:eeff:feee:eeee dev eth0 proto ra" in log
        assert f"{address}/128" not in log, "nobody gave it one"
        assert eventually(partial(asks, cloud.path(friend), address)), "across hosts"
        assert not asks(cloud.path(friend), "fd65::bad")
    finally:
        machine.stop()
        cloud.remove_tap("h1", own)
        cloud.forget(key)
        cloud.remove("slaac-friend")
        cloud.store_subnets(four, six)
