"""Options that we do not have are refused with what to do instead; Calico's words stay."""

from typing import Any

import pytest
from tests.docker.conftest import Hosts
from tests.docker.dockerd import IMAGE, eventually

from tortie.docker import ipam_driver, network_driver

IPAM = ("--ipam-driver", "tortie-ipam")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((*IPAM, "--opt", "x=1"), "does not support the flag x"),
        ((*IPAM, "--opt", "x=1", "--opt", "y=2"), "does not support the flags x, y"),
        ((*IPAM, "--ipam-opt", "x=1"), "Arbitrary options are not supported"),
        ((*IPAM, "--subnet", "198.51.100.0/24"), "must match the CIDR of a configured Calico IP"),
        (
            (*IPAM, "--subnet", "10.65.0.0/16", "--ip-range", "10.65.1.0/24"),
            "does not support sub pool configuration",
        ),
        (
            (*IPAM, "--subnet", "10.65.0.0/16", "--gateway", "10.65.0.1"),
            "does not support specifying a gateway",
        ),
        ((), "Non-Calico IPAM driver is used"),
        (("--subnet", "10.65.0.0/16"), "--ipam-driver tortie-ipam"),
    ],
)
def test_options_of_networks(hosts: Hosts, options: tuple[str, ...], said: str) -> None:
    assert said in hosts.h1.refused("network", "create", "--driver", "tortie", *options, "net1")
    assert "net1" not in hosts.h1.ok("network", "ls")
    assert not hosts.handles()


def test_published_ports(hosts: Hosts) -> None:
    hosts.h1.network("net1")
    said = hosts.h1.refused("run", "--rm", "--network", "net1", "-p", "8080:80", IMAGE, "/bin/true")
    assert "cannot be published" in said
    assert "port 80" in said
    assert not hosts.left_overs()


HOSTILE: tuple[Any, ...] = (
    None, [], "x", 7, {"NetworkID": 7}, {"NetworkID": "../../etc/passwd"}, {"NetworkID": "a\0b"},
    {"NetworkID": "x" * 5000, "EndpointID": "y" * 5000}, {"EndpointID": "-"},
    {"NetworkID": "n1", "EndpointID": "e1"},
    {"NetworkID": "n1", "EndpointID": "e1", "Interface": {"Address": "10.65.0.0/33"}},
    {"NetworkID": "n1", "EndpointID": "e1", "Interface": {"Address": "nonsense"}},
    {"NetworkID": "n1", "EndpointID": "e1", "Interface": {"AddressIPv6": "::1%eth0/128"}},
    {"NetworkID": "n1", "EndpointID": "e1",
     "Interface": {"Address": "10.65.9.9/32", "MacAddress": "01:00:5e:00:00:01"}},
    {"NetworkID": "n1", "EndpointID": "e1", "Interface": {"Address": "10.65.9.9/32"},
     "Options": {"com.docker.network.portmap": [7, {"Port": {}}]}},
    {"NetworkID": "n1", "Options": {"com.docker.network.generic": {"\x1b[31m": "x"}}},
    {"NetworkID": "n1", "IPv4Data": [{"Gateway": "\ud800"}]},
    {"PoolID": "nonsense"}, {"PoolID": "CalicoPoolIPv4", "Address": "nonsense"},
    {"PoolID": "CalicoPoolIPv4", "Address": "fd00::1"}, {"PoolID": "0.0.0.0/0"},
    {"Pool": "nonsense"}, {"Pool": "::/0", "V6": "yes"}, {"Pool": "10.65.0.0/16", "V6": True},
)  # fmt: skip


def test_whatever_the_socket_is_asked_the_service_goes_on(hosts: Hosts) -> None:
    h1 = hosts.h1
    for call in (*network_driver.CALLS, "GetCapabilities", "Nonsense", "../x"):
        for body in HOSTILE:
            status, answer = h1.plugin(f"NetworkDriver.{call}", body)
            assert status in (200, 400, 404, 500), (call, body, answer)
            assert status == 200 or answer["Err"]
            assert "internal error" not in str(answer), (call, body, answer)
    for call in ipam_driver.CALLS:
        for body in HOSTILE:
            status, answer = h1.plugin(f"IpamDriver.{call}", body)
            assert "internal error" not in str(answer), (call, body, answer)
            if call == "RequestAddress" and status == 200:
                pool = body["PoolID"]
                address = answer["Address"].partition("/")[0]
                h1.plugin("IpamDriver.ReleaseAddress", {"PoolID": pool, "Address": address})
    h1.network("net1")
    h1.run("web", "net1")
    h1.ok("rm", "-f", "web")
    assert eventually(lambda: not hosts.left_overs(), hosts.left_overs)


def test_the_names_of_calico(hosts: Hosts) -> None:
    """A network of Calico's driver, by its names; interfaces are called as with Calico."""
    h1 = hosts.h1
    h1.ok("network", "create", "--driver", "calico", "--ipam-driver", "calico-ipam", "old")
    h1.run("web", "old")
    assert "cali0" in h1.exec("web", "ip", "link").stdout
    assert '"old"' in next(iter(hosts.endpoints().values()))
