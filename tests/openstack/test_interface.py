"""The interface driver, as each Neutron loads it, at work on a kernel."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.openstack.agent import Agent
from tests.openstack.server import VERSIONS, ZED, site, virtual_environment

pytestmark = pytest.mark.timeout(200)

DEVICE = "ns-0a1b2c3d-4e"
MAC = "fa:16:3e:00:00:0a"
ADDRESSES = ["10.65.0.1/24", "2001:db8:65::1/64"]


class Ports(NamedTuple):
    """Of an agent, in its own namespace or another one."""

    agent: Agent
    namespace: str | None

    def call(self, method: str, **arguments: Any) -> Any:
        """What went wrong, or nothing."""
        return self.agent.call(method, device_name=DEVICE, namespace=self.namespace, **arguments)

    def plug(self, mtu: int = 1450) -> Any:
        return self.call("plug", network_id="a", port_id="b", mac_address=MAC, mtu=mtu)

    def ip(self, *words: str) -> Any:
        where = ("-n", self.namespace) if self.namespace else ()
        return self.agent.ip(*where, *words)

    def devices(self) -> list[str]:
        return [link["ifname"] for link in self.ip("link", "show") if link["ifname"] != "lo"]

    def link(self) -> dict[str, Any]:
        (link,) = self.ip("link", "show", "dev", DEVICE)
        return dict(link)

    def addresses(self) -> list[str]:
        (shown,) = self.ip("address", "show", "dev", DEVICE)
        return sorted(
            f"{one['local']}/{one['prefixlen']}"
            for one in shown["addr_info"]
            if one["scope"] == "global"
        )

    def routes(self) -> set[str]:
        """In the main tables."""
        found = [*self.ip("-4", "route", "show"), *self.ip("-6", "route", "show")]
        return {route["dst"] for route in found}


class Installed(NamedTuple):
    """A Neutron, and Tortie beside it."""

    python: Path
    environment: dict[str, str]


@pytest.fixture(scope="module", params=VERSIONS)
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    found = Path("/usr/bin/python3")
    if request.param != ZED:
        found = virtual_environment() / "bin/python"
    packages = site(tmp_path_factory.mktemp("interface") / "site")
    return Installed(found, {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"})


@pytest.fixture(scope="module")
def agent(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    started = Agent(tmp_path_factory.mktemp("agent"), *installed, driver="calico")
    yield started
    started.stop()


@pytest.fixture
def ports(agent: Agent) -> Iterator[Ports]:
    made = Ports(agent, None)
    yield made
    for name in made.devices():
        made.ip("link", "delete", "dev", name)


def test_neutron_loads_it(agent: Agent) -> None:
    assert agent.loaded == ["tortie.openstack.interface", False, True]


def test_a_port_is_a_dummy_device_of_its_own_mac_and_mtu(ports: Ports) -> None:
    assert not ports.plug()
    link = ports.link()
    assert ports.devices() == [DEVICE]
    assert link["linkinfo"]["info_kind"] == "dummy"
    assert (link["address"], link["mtu"]) == (MAC, 1450)
    assert "UP" in link["flags"]
    assert "master" not in link
    assert not ports.call("unplug")
    assert ports.devices() == []


def test_a_namespace_that_is_not_there_is_made(agent: Agent) -> None:
    ports = Ports(agent, "qdhcp-new")
    assert not ports.plug()
    assert not ports.call("init_l3", ip_cidrs=ADDRESSES[:1])
    assert ports.addresses() == ADDRESSES[:1]
    assert Ports(agent, None).devices() == []
    agent.ip("netns", "delete", "qdhcp-new")
    assert not ports.call("unplug")


def test_plugging_again_mends_what_is_wrong_and_makes_nothing_anew(ports: Ports) -> None:
    ports.ip("link", "add", DEVICE, "type", "dummy")  # and then the agent was killed
    index = ports.link()["ifindex"]
    for mtu in (1450, 1450, 9000):
        assert not ports.plug(mtu)
        link = ports.link()
        assert (link["ifindex"], link["address"], link["mtu"]) == (index, MAC, mtu)
        assert "UP" in link["flags"]


def test_addresses_have_their_subnets_length_and_no_subnets_route(ports: Ports) -> None:
    ports.plug()
    for _ in range(2):
        assert not ports.call("init_l3", ip_cidrs=ADDRESSES)
        assert ports.addresses() == ADDRESSES
        assert ports.routes() == {"fe80::/64"}
    # As the link goes down and up, the kernel makes them again; the next call takes them away.
    ports.ip("link", "set", DEVICE, "down")
    ports.ip("link", "set", DEVICE, "up")
    assert "10.65.0.0/24" in ports.routes()
    ports.call("init_l3", ip_cidrs=ADDRESSES)
    assert ports.addresses() == ADDRESSES
    assert ports.routes() == {"fe80::/64"}


def test_what_is_not_wanted_any_more_goes_and_the_rest_stays(ports: Ports) -> None:
    ports.plug()
    ports.call("init_l3", ip_cidrs=[*ADDRESSES, "10.66.0.1/24"])
    ports.ip("route", "add", "10.80.0.0/24", "dev", DEVICE)  # somebody's, and not ours to remove
    wanted = ["10.65.0.1/24", "2001:db8:67::1/64"]
    assert not ports.call("init_l3", ip_cidrs=wanted, preserve_ips=["10.66.0.1/24"])
    assert ports.addresses() == ["10.65.0.1/24", "10.66.0.1/24", "2001:db8:67::1/64"]
    assert ports.routes() == {"fe80::/64", "10.80.0.0/24"}
    assert not ports.call("init_l3", ip_cidrs=[])
    assert ports.addresses() == []


def test_what_cannot_be_done_is_told(ports: Ports) -> None:
    told = ports.call("init_l3", ip_cidrs=ADDRESSES)
    assert "NetworkInterfaceNotFound" in told
    assert DEVICE in told
    ports.ip("link", "add", DEVICE, "type", "veth", "peer", "name", "other")
    told = ports.plug()
    assert "NotOurs" in told
    assert "veth" in told
    assert ports.link()["linkinfo"]["info_kind"] == "veth"
    ports.ip("link", "delete", "dev", DEVICE)
    assert not ports.call("unplug")  # it is gone already


def test_it_has_our_own_name_too(installed: Installed) -> None:
    program = (
        "from neutron_lib.utils import runtime\n"
        "print(runtime.load_class_by_alias_or_classname('neutron.interface_drivers', 'tortie'))"
    )
    home = {"HOME": installed.environment["PYTHONPATH"]}  # where stevedore remembers
    asked = subprocess.run(
        [installed.python, "-c", program],
        check=True, capture_output=True, text=True, env=home | installed.environment,
    )  # fmt: skip
    assert "tortie.openstack.interface.RoutedInterfaceDriver" in asked.stdout
