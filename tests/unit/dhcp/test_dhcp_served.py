"""Who is served what, and what nobody is."""

from typing import Any

import msgspec
import pytest

from tortie.dhcp import options
from tortie.dhcp.options import Option, parse_options
from tortie.dhcp.render import LINE_MAX_BYTES, render
from tortie.dhcp.served import HOST_NETWORK, Defaults, Result, Served, decide
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address, parse_network
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.openstack.labels import (
    DHCP_OPTIONS_ANNOTATION,
    FQDN_ANNOTATION,
    NETWORK_ANNOTATION,
)
from tortie.openstack.subnets import SubnetValue

NETWORK = "4f0c6f0e-7f5e-4b8e-9a5e-0d3e1f2a3b4c"
DEFAULTS = Defaults(("tap",), (parse_address("10.0.0.53"), parse_address("fd00::53")))
SUBNETS = {
    "s4": SubnetValue(
        network_id=NETWORK,
        cidr="10.65.0.0/24",
        gateway_ip="10.65.0.1",
        dns_servers=("8.8.8.8", "9.9.9.9"),
        host_routes=({"destination": "10.9.0.0/16", "nexthop": "10.65.0.9"},),
        mtu=1450,
    ),
    "s6": SubnetValue(network_id=NETWORK, cidr="fd00:65::/64", gateway_ip="fd00:65::1"),
}


def endpoint(
    number: int = 1, annotations: dict[str, str] | None = None, **spec: Any
) -> tuple[ResourceKey, WorkloadEndpoint]:
    """An OpenStack port."""
    fields: dict[str, Any] = {
        "orchestrator": "openstack",
        "workload": f"vm{number}",
        "node": "h1",
        "endpoint": f"port{number}",
        "interface_name": f"tap{number:08}",
        "mac": f"FA:16:3E:00:00:{number:02X}",
        "ip_networks": (f"10.65.0.{number + 4}/32", f"fd00:65::{number + 4:x}/128"),
    }
    name = f"h1-openstack-vm{number}-port{number}"
    made = WorkloadEndpoint(
        kind="WorkloadEndpoint",
        metadata=Metadata(
            name=name,
            namespace="openstack",
            annotations={NETWORK_ANNOTATION: NETWORK} if annotations is None else annotations,
        ),
        spec=WorkloadEndpointSpec(**{**fields, **spec}),
    )
    return ResourceKey("WorkloadEndpoint", name, "openstack"), made


def decided(
    *endpoints: tuple[ResourceKey, WorkloadEndpoint], subnets: dict[str, SubnetValue] = SUBNETS
) -> Result:
    mtus = {one.spec.interface_name: 1500 for _, one in endpoints}
    return decide(dict(endpoints), subnets, [parse_network("10.66.0.0/16")], mtus, DEFAULTS)


def text_of(served: Served) -> list[str]:
    return render(served, DEFAULTS, lease_seconds=86400, user="dnsmasq").splitlines()


def lines_of(*endpoints: tuple[ResourceKey, WorkloadEndpoint], **subnets: Any) -> list[str]:
    result = decided(*endpoints, **subnets)
    [served] = result.networks.values()
    return text_of(served)


def test_a_port_of_openstack() -> None:
    lines = lines_of(endpoint(annotations={FQDN_ANNOTATION: "web-1.example.org."}))
    for wanted in (
        "port=0",
        "interface=tap00000001",
        "dhcp-range=set:s0,10.65.0.0,static,255.255.255.0,86400",
        "dhcp-range=set:s1,fd00:65::,static,off-link,64,86400",
        "shared-network=tap00000001,10.65.0.0",
        "shared-network=tap00000001,fd00:65::",
        "dhcp-option=tag:s0,3,10.65.0.1",
        "dhcp-option=tag:s0,6,8.8.8.8,9.9.9.9",
        "dhcp-option=tag:s0,121,10.9.0.0/16,10.65.0.9,169.254.169.254/32,10.65.0.1,"
        "0.0.0.0/0,10.65.0.1",
        "dhcp-option=tag:s1,option6:23,[fd00::53]",
        "dhcp-host=fa:16:3e:00:00:01,id:*,tag:tap00000001,set:g0,10.65.0.5,[fd00:65::5],web-1",
        "dhcp-option=tag:g0,15,example.org",
        "dhcp-option=tag:g0,26,1450",
        "enable-ra",
    ):
        assert wanted in lines, "\n".join(lines)


def test_another_guest_gets_a_host_address_and_the_way_to_its_gateway() -> None:
    key, port = endpoint(
        annotations={"tortie/dhcp": "yes", "tortie/dns": "10.1.1.1,fd00::1"},
        orchestrator="tortie",
        ip_networks=("10.66.0.7/32",),
        mac="",
    )
    result = decided((key, port))
    assert list(result.networks) == [HOST_NETWORK]
    lines = text_of(result.networks[HOST_NETWORK])
    assert "dhcp-option-force=tag:s0,1,255.255.255.255" in lines
    routes = "169.254.1.1/32,0.0.0.0,0.0.0.0/0,169.254.1.1"
    assert f"dhcp-option=tag:s0,121,{routes}" in lines
    assert "dhcp-host=*:*:*:*:*:*,id:*,tag:tap00000001,set:g0,10.66.0.7,vm1" in lines
    assert "dhcp-option=tag:g0,6,10.1.1.1" in lines
    assert "enable-ra" not in lines


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"interface_name": "eth0"}, "not a workload's"),
        ({"interface_name": "tap1\ninterface=eth0"}, "not a workload's"),
        ({"mac": "aa:bb:cc:dd:ee:ff,ignore"}, "no MAC"),
        ({"ip_networks": ()}, "no address"),
        ({"ip_networks": ("10.99.0.1/32",)}, "no subnet"),
        ({"allowed_ips": ("10.65.0.5/32", "fd00:65::5/128")}, "no address"),
    ],
)
def test_who_is_not_served(spec: dict[str, Any], why: str) -> None:
    result = decided(endpoint(1, **spec), endpoint(2))
    assert [why in problem for problem in result.problems.values()] == [True]
    assert [guest.interface for guest in result.networks[NETWORK].guests] == ["tap00000002"]


def test_workloads_that_did_not_ask_are_left_alone() -> None:
    result = decided(endpoint(orchestrator="k8s"))
    assert result == Result({}, {})


def test_an_address_is_one_guests() -> None:
    """Twice the same one would keep dnsmasq from starting, for the whole network."""
    result = decided(endpoint(1), endpoint(2, ip_networks=("10.65.0.5/32",)))
    assert list(result.problems.values()) == ["others have its addresses"]
    assert len(result.networks[NETWORK].guests) == 1


def test_an_allowed_pair_is_not_offered() -> None:
    pair = "10.65.0.200/32"
    lines = lines_of(endpoint(ip_networks=(pair, "10.65.0.5/32"), allowed_ips=(pair,)))
    assert any(line.endswith("set:g0,10.65.0.5") for line in lines)
    assert not any("10.65.0.200" in line for line in lines)


def test_ipv6_ranges_are_of_64_bits() -> None:
    wide = SubnetValue(network_id=NETWORK, cidr="fd00::/48", gateway_ip="fd00::1")
    lines = lines_of(endpoint(ip_networks=("fd00:0:0:7::5/128",)), subnets={"w": wide})
    assert "dhcp-range=set:s0,fd00:0:0:7::,static,off-link,64,86400" in lines
    assert "shared-network=tap00000001,fd00:0:0:7::" in lines


def test_a_subnet_where_guests_make_their_addresses() -> None:
    slaac = SubnetValue(
        network_id=NETWORK,
        cidr="fd00:65::/64",
        gateway_ip="fd00:65::1",
        ipv6_address_mode="slaac",
        ipv6_ra_mode="slaac",
    )
    lines = lines_of(endpoint(ip_networks=("fd00:65::5/128",)), subnets={"s": slaac})
    assert "dhcp-range=set:s0,fd00:65::,ra-only,off-link,64,86400" in lines
    assert not any("[fd00:65::5]" in line for line in lines)


HOSTILE = (
    "x\ndhcp-script=/bin/sh",
    "x\r\ndhcp-script=/bin/sh",
    "x,tag:tap00000002",
    "x\\ndhcp-script=/bin/sh",
    'x" dhcp-script=/bin/sh',
    "x # y",
    "x y",
    "ignore",
    "infinite",
    "10m",
    "7",
    "-x",
    "x" * 300,
    "é",
    "\0",
    "x=y",
    "set:y",
    "[fd00::1]",
    "10.65.0.6",
    "id:*",
    "../../etc/passwd",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_ossa_2021_005_names_are_names_or_nothing(text: str) -> None:
    """CVE-2021-40085 and whatever else a name might be taken for by dnsmasq."""
    plain = lines_of(endpoint(annotations={}))
    for fqdn in (text, f"{text}.example.org", f"a.{text}"):
        lines = lines_of(endpoint(annotations={FQDN_ANNOTATION: fqdn}))
        extra = [line for line in lines if line not in plain]
        for line in extra:
            directive = line.partition("=")[0]
            assert directive in ("dhcp-host", "dhcp-option"), line
        assert len([line for line in lines if line.startswith("dhcp-host=")]) == 1
        [host] = [line for line in lines if line.startswith("dhcp-host=")]
        assert host.split(",")[:6] == [
            "dhcp-host=fa:16:3e:00:00:01", "id:*", "tag:tap00000001", "set:g0", "10.65.0.5",
            "[fd00:65::5]",
        ]  # fmt: skip
        assert host.count(",") <= 6


@pytest.mark.parametrize("name", [*options.TABLE[4], *options.TABLE[6]])
@pytest.mark.parametrize("text", HOSTILE)
def test_ossa_2021_005_options_are_of_their_type_or_nothing(name: str, text: str) -> None:
    for family in (4, 6):
        wanted = [{"opt_name": name, "opt_value": text, "ip_version": family}]
        annotations = {DHCP_OPTIONS_ANNOTATION: msgspec.json.encode(wanted).decode()}
        # Rendering refuses whatever is no plain line.
        lines = lines_of(endpoint(annotations=annotations))
        assert not any("script" in line or "\\" in line for line in lines)


@pytest.mark.parametrize(
    "name", ["option:mtu", "26,1400\ndhcp-script=x", "script", "tag:x,3", "encap:43", "vi-encap:1"]
)
def test_options_of_no_known_name_are_not_sent(name: str) -> None:
    text = msgspec.json.encode([{"opt_name": name, "opt_value": "1400"}]).decode()
    assert parse_options(text) == ()


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", "null", '[{"opt_name":5}]', "[" * 5000])
def test_options_that_cannot_be_read_are_none(text: str) -> None:
    assert parse_options(text) == ()


def test_options_that_may_be_sent() -> None:
    wanted = [
        {"opt_name": "mtu", "opt_value": 1400},
        {"opt_name": "mtu", "opt_value": "1300"},
        {"opt_name": "42", "opt_value": "10.0.0.1, 10.0.0.2"},
        {"opt_name": "dns-server", "opt_value": "fd00::9", "ip_version": 6},
        {"opt_name": "bootfile-name", "opt_value": "pxelinux.0"},
    ]
    assert parse_options(msgspec.json.encode(wanted).decode()) == (
        Option(4, 26, "1300"),
        Option(4, 42, "10.0.0.1,10.0.0.2"),
        Option(6, 23, "[fd00::9]"),
        Option(4, 67, "pxelinux.0"),
    )


def test_subnets_that_users_fill_with_nonsense() -> None:
    bad = SubnetValue(
        network_id=NETWORK,
        cidr="10.65.0.0/24",
        gateway_ip="10.65.0.1\ndhcp-script=x",
        dns_servers=("8.8.8.8\nx", "9.9.9.9,script", "", "1.1.1.1", "fd00::1"),
        host_routes=(
            {"destination": "10.0.0.0/8\n", "nexthop": "10.65.0.9"},
            {"destination": "10.0.0.0/8"},
            {"destination": "fd00::/8", "nexthop": "fd00::1"},
            *({"destination": f"10.{n}.0.0/16", "nexthop": "0.0.0.0"} for n in range(90)),
        ),
        mtu=-5,
    )
    lines = lines_of(endpoint(ip_networks=("10.65.0.5/32",)), subnets={"b": bad})
    assert "dhcp-option=tag:s0,6,1.1.1.1" in lines
    assert "dhcp-option=tag:s0,3" in lines, "no router rather than dnsmasq's own choice"
    assert max(map(len, lines)) <= LINE_MAX_BYTES
    assert not any("script" in line for line in lines)


def test_rendering_refuses_what_should_never_get_there() -> None:
    result = decided(endpoint())
    served = result.networks[NETWORK]
    [guest] = served.guests
    for hostname in ("x\ny", "x y", 'x"', "x#", "x\\", "x" * 1000):
        bad = msgspec.structs.replace(guest, hostname=hostname)
        with pytest.raises(InvalidInput, match="not fit"):
            text_of(msgspec.structs.replace(served, guests=(bad,)))


def test_the_text_does_not_depend_on_the_order_of_what_came() -> None:
    ports = [endpoint(number) for number in (3, 1, 2)]
    assert lines_of(*ports) == lines_of(*reversed(ports))
