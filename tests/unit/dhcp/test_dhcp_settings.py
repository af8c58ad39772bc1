"""Operators of Calico keep their files."""

from pathlib import Path

import pytest

from tortie.dhcp.settings import Settings, nameservers_of_this_host, read_files
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address

NEUTRON = """
[DEFAULT]
host = Compute-7
transport_url = rabbit://openstack:secret%pass@controller
dns_domain = example.org.
[calico]
etcd_host = 10.0.0.1,etcd2:2389,[fd00::1]
etcd_scheme = https
etcd_ca_cert_file = /etc/ca.pem
etcd_username = dhcp
etcd_password = pa%ss
openstack_region = west
"""
AGENT = """
[DEFAULT]
host = compute-8
dhcp_lease_duration = 3600
dnsmasq_dns_servers = 10.0.0.53, fd00::53
interface_driver = networking_calico.agent.linux.interface.RoutedInterfaceDriver
"""


def test_neutrons_files(tmp_path: Path) -> None:
    """Later ones win; what is not ours is left alone."""
    paths = [tmp_path / "neutron.conf", tmp_path / "dhcp_agent.ini"]
    for path, text in zip(paths, (NEUTRON, AGENT), strict=True):
        path.write_text(text)
    files = read_files(paths)
    assert (files.host, files.lease_seconds, files.domain) == ("compute-8", 3600, "example.org")
    assert files.dns == (parse_address("10.0.0.53"), parse_address("fd00::53"))
    assert files.calico is not None
    assert (files.calico.region, files.calico.namespace) == (
        "region-west", "openstack-region-west"
    )  # fmt: skip
    datastore = files.datastore
    assert datastore is not None
    assert datastore.endpoints == (
        "https://10.0.0.1:2379", "https://etcd2:2389", "https://[fd00::1]:2379"
    )  # fmt: skip
    assert (datastore.username, datastore.password) == ("dhcp", "pa%ss")
    assert datastore.ca_file == Path("/etc/ca.pem")


def test_files_without_calicos_section_say_nothing_of_a_datastore(tmp_path: Path) -> None:
    path = tmp_path / "neutron.conf"
    path.write_text("[DEFAULT]\n")
    assert read_files([path]).datastore is None


@pytest.mark.parametrize(
    "text", ["etcd_password = secret\n", "[calico\netcd_password = secret\n", "[a]\nsecret\n"]
)
def test_what_is_no_file_of_theirs_is_not_quoted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "neutron.conf"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_files([path])
    assert "secret" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[DEFAULT]\ndhcp_lease_duration = long\n", "dhcp_lease_duration"),
        ("[DEFAULT]\ndnsmasq_dns_servers = 10.0.0.53;rm\n", "10.0.0.53;rm"),
        ("[calico]\netcd_port = x\n", "etcd_port"),
        ("[calico]\netcd_scheme = ftp\n", "etcd_scheme"),
        ("[calico]\nopenstack_region = Not Good\n", "openstack_region"),
    ],
)
def test_wrong_values_are_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "neutron.conf"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_files([path])


def test_leases_have_a_least_length() -> None:
    assert Settings(host="h", lease_seconds=-1).lease_seconds == -1
    for seconds in (0, 119, -2):
        with pytest.raises(InvalidInput, match="at least 120"):
            Settings(host="h", lease_seconds=seconds)


def test_this_hosts_name_servers_but_those_on_loopback(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "nameserver 127.0.0.53\nnameserver 10.0.0.1\n# x\nnameserver ::1\nnameserver fe\n"
    )
    assert nameservers_of_this_host(path) == (parse_address("10.0.0.1"),)
    assert nameservers_of_this_host(tmp_path / "none") == ()
