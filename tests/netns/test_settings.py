"""Settings of the dataplane that have no test file of their own, against the kernel."""

import subprocess

import pytest
from tests.netns.dataplane_host import Host, hears, workloads
from tests.netns.outside import THIS_HOST, machines, udp

from tortie.agent.config import Local, resolve
from tortie.dataplane.settings import Settings
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.kernel.rtnl.route import TABLE_MAIN
from tortie.lib.ip import parse_address

pytestmark = pytest.mark.usefixtures("netns")

FAMILIES = (4, 6)
OWN = {4: "192.0.2.77", 6: "2001:db8::77"}


def parsed(name: str, text: str) -> object:
    return resolve(Local({name.lower(): text}, {}, ""))[name]


def opened(settings: Settings) -> Host:
    made = Host(settings)
    made.allow_all_profile()
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_what_this_host_sends_to_workloads_is_from_the_address_that_it_is_told(family: int) -> None:
    for text in OWN.values():
        subprocess.run(["ip", "addr", "add", text, "dev", "lo", "nodad"], check=False)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    names = {4: "DeviceRouteSourceAddress", 6: "DeviceRouteSourceAddressIPv6"}
    sources = (parsed(names[4], OWN[4]), parsed(names[6], OWN[6]))
    host = opened(Settings(host="h1", route_sources=sources))  # type: ignore[arg-type]
    with workloads(host, 1) as (a,):
        host.endpoint(a)
        host.resync()
        assert host.dataplane.in_sync, "what is read back is what was wanted"
        found = {
            route.destination: route.source
            for route in host.rtnl.routes(family, table=TABLE_MAIN, protocol=80)
        }
        assert found == {a.address(family): parse_address(OWN[family])}
        # By TCP's and UDP's choice, not ours: the socket is bound to nothing.
        assert udp(THIS_HOST, a, a.address(family), 80, patience=5)
        (flow,) = [
            one for one in host.conntrack.flows() if one.original.destination == a.address(family)
        ]
        assert flow.original.source == parse_address(OWN[family])
    host.close()


def test_routes_may_be_somebody_elses() -> None:
    host = opened(Settings(host="h1", install_routes=False))
    with workloads(host, 2) as (a, b):
        for one in (a, b):
            host.endpoint(one)
        host.apply()
        assert host.rtnl.routes(table=TABLE_MAIN, protocol=80) == []
        assert host.dataplane.in_sync
        for one in (a, b):
            subprocess.run(["ip", "route", "add", str(one.ipv4), "dev", one.interface], check=True)
        host.resync()
        assert hears(a, b, 80, patience=5), "policy and all else is there"
    host.close()


def test_forwarding_is_left_alone_where_it_is_not_ours() -> None:
    for forwarding in (False, True):
        host = opened(Settings(host="h1", forwarding=forwarding))
        host.apply()
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            assert host.sysctl(key) == str(int(forwarding))
        host.close()


@pytest.mark.parametrize("drop", [True, False])
def test_what_belongs_to_no_connection_may_pass(drop: bool) -> None:
    """`disableConntrackInvalidCheck`, for what the kernel misjudges (routes that differ)."""
    host = opened(Settings(host="h1", drop_invalid=drop))
    with workloads(host, 1) as (a,):
        host.endpoint(a)
        host.update(Kind.HOST_ENDPOINT, "all", HostEndpoint("*"))
        host.apply()
        checks = sum("ct state invalid" in block for block in host.ruleset())
        assert bool(checks) == drop
    host.close()


def test_addresses_of_some_interfaces_are_no_host_endpoints() -> None:
    """Where kube-proxy keeps the addresses of services, above all."""
    excluded = parsed("InterfaceExclude", "kube-ipvs0,/^lb[0-9]/")
    assert isinstance(excluded, str)
    host = opened(Settings(host="h1", excluded_interfaces=excluded))
    with machines(host, "up0", "lb1", "kube-ipvs0", "xlb1") as made:
        for one in made:
            endpoint = HostEndpoint("", (one.near[4],))
            host.update(Kind.HOST_ENDPOINT, one.link, endpoint)
        host.apply()
        found = host.dataplane.host_endpoint_statuses()
        assert found == {"up0": "up", "xlb1": "up", "lb1": "error", "kube-ipvs0": "error"}
    host.close()


@pytest.mark.parametrize("text", ["/(/", "/[/,eth0"])
def test_a_pattern_that_is_none_leaves_the_default(text: str) -> None:
    assert parsed("InterfaceExclude", text) == parsed("InterfaceExclude", "kube-ipvs0")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("DeviceRouteSourceAddress", "fd00::1", None),
        ("DeviceRouteSourceAddressIPv6", "10.0.0.1", None),
        ("DeviceRouteSourceAddress", "10.0.0.0/8", None),
        ("IptablesNATOutgoingInterfaceFilter", "eth0; drop", ""),
        ("IptablesNATOutgoingInterfaceFilter", "eth+", "eth+"),
        ("WorkloadSourceSpoofing", "any", "Any"),
        ("IPForwarding", "disabled", "Disabled"),
        ("InterfaceExclude", "", ""),
        ("NftablesRefreshInterval", "0", 0.0),
    ],
)
def test_how_they_are_read(name: str, text: str, expected: object) -> None:
    assert parsed(name, text) == expected
