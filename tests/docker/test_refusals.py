"""Options that we do not have are refused with what to do instead; Calico's words stay."""

import pytest
from tests.docker.conftest import Hosts
from tests.docker.dockerd import IMAGE

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


def test_the_names_of_calico(hosts: Hosts) -> None:
    """A network of Calico's driver, by its names; interfaces are called as with Calico."""
    h1 = hosts.h1
    h1.ok("network", "create", "--driver", "calico", "--ipam-driver", "calico-ipam", "old")
    h1.run("web", "old")
    assert "cali0" in h1.exec("web", "ip", "link").stdout
    assert '"old"' in next(iter(hosts.endpoints().values()))
