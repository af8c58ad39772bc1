"""The DHCP agent with real dnsmasqs: clients on taps, faults, and guests that lie."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.datastore.etcd_server import EtcdServer
from tests.dhcp.host import NETWORK, SUBNET4, SUBNET6, Host, endpoint, eventually, mac_of
from tests.dhcp.tap import ACK, DISCOVER, NAK, OFFER, RENEW6, REPLY, REQUEST, REQUEST6, Lease

from tortie.model import codec
from tortie.model.keys import RESOURCES, ResourceKey
from tortie.openstack.subnets import SubnetValue, subnet_path

OTHER = "ffffffff-0000-4b8e-9a5e-0d3e1f2a3b4c"


@pytest.fixture
def served(host: Host) -> Host:
    """Guest 1 is there, and served."""
    host.put_subnets(s4=SUBNET4, s6=SUBNET6)
    host.put(endpoint(1))
    host.guest(1)
    host.start()
    assert eventually(host.guest(1).lease), "guest 1 is served"
    return host


def test_a_guest_learns_everything(served: Host) -> None:
    guest = served.guest(1)
    lease = eventually(guest.lease)
    assert lease is not None
    assert (lease.kind, lease.address) == (ACK, "10.65.0.11")
    assert lease.addresses(1) == ["255.255.0.0"]
    assert lease.addresses(3) == ["10.65.0.1"]
    assert lease.addresses(6) == ["8.8.8.8"]
    assert lease.options[26] == (1500).to_bytes(2, "big")
    assert lease.routes() == [
        ("10.9.0.0/16", "10.65.0.9"),
        ("169.254.169.254/32", "10.65.0.1"),
        ("0.0.0.0/0", "10.65.0.1"),
    ]
    advertised = eventually(guest.solicit_router)
    assert advertised is not None
    assert advertised.managed
    assert advertised.lifetime == 9000
    assert advertised.options[5][-4:] == (1500).to_bytes(4, "big")
    assert advertised.options[3][1] == 0, "neither on-link nor autonomous: by DHCPv6 alone"
    lease6 = eventually(guest.lease6)
    assert lease6 is not None
    assert (lease6.kind, lease6.addresses) == (REPLY, ["fd00:65::b"])
    assert lease6.options[23] == socket.inet_pton(socket.AF_INET6, "fd00::53")


def test_a_guest_renews_what_it_has(served: Host) -> None:
    """By unicast to the server, and after dnsmasq has lost all leases."""
    guest = served.guest(1)
    lease = eventually(guest.lease)
    assert lease is not None
    [server] = lease.addresses(54)

    def renew() -> Lease | None:
        return guest.dhcp(REQUEST, address="10.65.0.11", to=server, to_mac=b"\xee" * 6)

    assert (answer := eventually(renew)) is not None
    assert answer.kind == ACK
    os.kill(served.pids()[NETWORK], signal.SIGKILL)
    again = eventually(renew)
    assert again is not None
    assert (again.kind, again.address) == (ACK, "10.65.0.11")
    wrong = guest.dhcp(REQUEST, requested="10.65.0.77")
    assert wrong is None or wrong.kind == NAK


def test_a_guest_cannot_take_anothers_lease(served: Host) -> None:
    """Forged hardware address, client id and requested address: its own or nothing."""
    served.put(endpoint(2))
    mate = served.guest(2)
    assert eventually(mate.lease)
    guest = served.guest(1)
    assert guest.dhcp(DISCOVER, mac=mate.mac) is None
    assert guest.dhcp(REQUEST, mac=mate.mac, requested="10.65.0.12") is None
    client_id = bytes((61, 7, 1)) + mate.mac
    offer = guest.dhcp(DISCOVER, more=client_id, requested="10.65.0.12")
    assert offer is None or offer.address == "10.65.0.11"
    assert (lease := eventually(mate.lease)) is not None
    assert lease.address == "10.65.0.12"


def test_a_guest_is_known_by_its_tap_whatever_it_calls_itself(served: Host) -> None:
    """Client ids of boot loaders, of systemd, of a liar; one after the other, as a guest starts."""
    guest = served.guest(1)
    duid = b"\xff" + bytes(4) + b"\0\2\0\0\xab\x11" + bytes(8)
    liar = b"\1" + bytes.fromhex(mac_of(2).replace(":", ""))
    for client_id in (b"\0boot", duid, liar, b""):
        more = bytes((61, len(client_id))) + client_id if client_id else b""
        offer = eventually(partial(guest.dhcp, DISCOVER, more=more))
        assert offer is not None, client_id
        assert (offer.kind, offer.address) == (OFFER, "10.65.0.11")
        [server] = offer.addresses(54)
        lease = guest.dhcp(REQUEST, requested=offer.address, server=server, more=more)
        assert lease is not None, client_id
        assert (lease.kind, lease.address) == (ACK, "10.65.0.11")


def test_a_guest_without_a_mac_may_have_any(served: Host) -> None:
    """The tap says who it is; claiming a neighbour's MAC costs the neighbour nothing."""
    served.put(endpoint(2, mac=""))
    guest, mate = served.guest(2), served.guest(1)
    for mac in (guest.mac, b"\2\0\0\0\0\7", mate.mac):
        offer = eventually(partial(guest.dhcp, DISCOVER, mac=mac))
        assert offer is not None, mac
        assert (offer.kind, offer.address) == (OFFER, "10.65.0.12")
        [server] = offer.addresses(54)
        lease = guest.dhcp(REQUEST, mac=mac, requested="10.65.0.12", server=server)
        assert lease is not None, mac
        assert (lease.kind, lease.address) == (ACK, "10.65.0.12")
        stolen = guest.dhcp(REQUEST, mac=mac, requested="10.65.0.11", server=server)
        assert stolen is None or stolen.kind == NAK
        kept = eventually(mate.lease)
        assert kept is not None
        assert kept.address == "10.65.0.11"


def test_a_network_of_another_tenant_hears_nothing(served: Host) -> None:
    """Two dnsmasqs on one port: each answers its own links alone, also to unicast in time."""
    other = SubnetValue(network_id=OTHER, cidr="10.77.0.0/24", gateway_ip="10.77.0.1")
    served.put_subnets(o=other)
    served.put(endpoint(3, network=OTHER, ip_networks=("10.77.0.5/32",)))
    guest = served.guest(3, "10.77.0.5")
    lease = eventually(guest.lease)
    assert lease is not None
    assert lease.address == "10.77.0.5"
    assert len(served.pids()) == 2
    assert (first := eventually(served.guest(1).lease)) is not None
    assert first.address == "10.65.0.11"
    # Rebinding: a broadcast gets to both; who knows the guest answers.
    again = eventually(lambda: guest.dhcp(REQUEST, address="10.77.0.5"))
    assert again is not None
    assert again.kind == ACK
    times = [int.from_bytes(lease.options[number], "big") for number in (58, 59, 51)]
    assert times == [43200, 43260, 86400]


def test_an_address_passes_to_another_guest_at_once(served: Host) -> None:
    """A lease that the first one had would keep it from the second for a day."""
    served.delete(endpoint(1))
    served.put(endpoint(2, ip_networks=("10.65.0.11/32",)))
    guest = served.guest(2)
    lease = eventually(guest.lease)
    assert lease is not None
    assert lease.address == "10.65.0.11"
    assert served.guest(1).dhcp(DISCOVER, seconds=1.0) is None


def test_dnsmasq_dies(served: Host) -> None:
    guest = served.guest(1)
    for _ in range(2):
        before = served.pids()[NETWORK]
        os.kill(before, signal.SIGKILL)
        assert eventually(partial(_is_another, served, "run", before))
        assert eventually(guest.lease)
    served.stop()
    assert served.pids() == {}, "asked to stop it takes them along"


def test_the_agent_dies(host: Host) -> None:
    """What a killed agent left behind serves on, and the next one puts a new one in its place."""
    host.put_subnets(s4=SUBNET4, s6=SUBNET6)
    host.put(endpoint(1))
    guest = host.guest(1)
    process = host.start_process()
    try:
        assert eventually(guest.lease)
        [left] = host.pids("process").values()
        process.kill()
        process.wait()
        assert host.pids("process") == {NETWORK: left}
        assert eventually(guest.lease), "without an agent"
        process = host.start_process()
        assert eventually(partial(_is_another, host, "process", left))
        assert eventually(guest.lease)
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert host.pids("process") == {}


def _is_another(host: Host, directory: str, before: int) -> bool:
    return host.pids(directory).get(NETWORK, before) != before


def test_the_last_guest_takes_the_dnsmasq_along(served: Host) -> None:
    served.delete(endpoint(1))
    assert eventually(lambda: not served.pids())
    assert eventually(lambda: not list((served.directory / "run").iterdir()))


def test_a_hundred_ports_at_once(host: Host) -> None:
    """Taps come before and after their endpoints; all are served, with few starts."""
    host.put_subnets(s4=SUBNET4, s6=SUBNET6)
    host.start()
    ports = [endpoint(number) for number in range(1, 101)]
    guests = [host.guest(number) for number in range(1, 51)]
    host.put(*ports[:30])
    host.put(*ports[30:])
    guests += [host.guest(number) for number in range(51, 101)]
    for number, guest in enumerate(guests, 11):
        lease = eventually(guest.lease)
        assert lease is not None, guest.interface
        assert lease.address == f"10.65.0.{number}"
    assert host.agent is not None
    assert host.agent.statistics().starts <= 25
    assert len(host.pids()) == 1
    lease6 = eventually(guests[-1].lease6)
    assert lease6 is not None
    assert lease6.addresses == ["fd00:65::6e"]


def test_one_tenants_nonsense_stops_nobody(served: Host) -> None:
    """Hostile texts everywhere: what parses is served, and dnsmasq takes the file."""
    bad = SubnetValue(
        network_id=OTHER,
        cidr="10.77.0.0/24",
        gateway_ip="10.77.0.1\ndhcp-script=/bin/sh",
        dns_servers=("8.8.8.8\nport=53", "1.1.1.1"),
    )
    options = [
        {"opt_name": "bootfile-name", "opt_value": "x\ndhcp-script=/bin/sh"},
        {"opt_name": "mtu", "opt_value": "1400"},
        {"opt_name": "domain-name", "opt_value": "a,tag:b"},
    ]
    annotations = {
        "openstack.projectcalico.org/network-id": OTHER,
        "openstack.projectcalico.org/fqdn": "x,ignore\n.example.org",
        "openstack.projectcalico.org/extra-dhcp-opts": msgspec.json.encode(options).decode(),
    }
    made = endpoint(2, ip_networks=("10.77.0.5/32",))
    metadata = msgspec.structs.replace(made.metadata, annotations=annotations)
    served.put_subnets(bad=bad)
    served.put(msgspec.structs.replace(made, metadata=metadata))
    guest = served.guest(2)
    lease = eventually(guest.lease)
    assert lease is not None
    assert lease.address == "10.77.0.5"
    assert lease.addresses(6) == ["1.1.1.1"]
    assert lease.options[26] == (1400).to_bytes(2, "big")
    assert 12 not in lease.options
    assert 67 not in lease.options
    assert (first := eventually(served.guest(1).lease)) is not None
    assert first.address == "10.65.0.11"


def test_nothing_is_readable_to_others(served: Host) -> None:
    run = served.directory / "run"
    for path in (run, *run.rglob("*")):
        assert not path.stat().st_mode & 0o077, path
    pid = served.pids()[NETWORK]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t0" not in status, "it has given root up"


def test_a_guest_that_starts_anew_may_call_itself_differently(served: Host) -> None:
    """dnsmasq would keep its address for who it was: until the lease ends, a day."""
    guest = served.guest(1)
    assert eventually(guest.lease6)
    guest.close()
    guest.duid = b"\0\4" + bytes(range(16))
    guest.open()
    lease = eventually(guest.lease6)
    assert lease is not None
    assert lease.addresses == ["fd00:65::b"]


def test_dhcpv6_renewal_after_a_loss(served: Host) -> None:
    """dnsmasq says that it knows of none; then a client asks for the same (RFC 8415, 18.2.10.1)."""
    guest = served.guest(1)
    lease = eventually(guest.lease6)
    assert lease is not None
    os.kill(served.pids()[NETWORK], signal.SIGKILL)
    time.sleep(0.5)
    server, [address] = lease.options[2], lease.addresses
    assert eventually(lambda: guest.dhcp6(RENEW6, server=server, address=address)) is not None
    again = eventually(lambda: guest.dhcp6(REQUEST6, server=server, address=address))
    assert again is not None
    assert again.addresses == ["fd00:65::b"]


def test_calicos_command_with_neutrons_files_over_etcd(host: Host, tmp_path: Path) -> None:
    """`calico-dhcp-agent`: as operators start it; etcd may go and come back."""
    server = EtcdServer(tmp_path / "etcd").start()
    name, _, port = server.endpoint.removeprefix("http://").rpartition(":")
    files = tmp_path / "neutron.conf"
    files.write_text(
        f"[DEFAULT]\nhost = h1\ndnsmasq_dns_servers = 10.0.0.98\ndhcp_lease_duration = 600\n"
        f"[calico]\netcd_host = {name}\netcd_port = {port}\n"
    )
    script = "from tortie.dhcp.main import calico_dhcp_agent as main; main()"
    command = [sys.executable, "-c", script, "--config-file", str(files)]
    command += ["--run-directory", str(tmp_path / "process"), "--state-directory", str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "FELIX_INTERFACEPREFIX": "cali,tap"})
    try:
        plain = msgspec.structs.replace(SUBNET4, dns_servers=msgspec.UNSET)
        ports = {
            subnet_path("s4", "no-region"): msgspec.json.encode(plain),
            **{
                f"{RESOURCES}workloadendpoints/openstack/{one.metadata.name}": codec.encode(
                    ResourceKey("WorkloadEndpoint", one.metadata.name, "openstack"), one
                )
                for one in (endpoint(1), endpoint(2))
            },
        }
        for path, value in ports.items():
            put = ["etcdctl", f"--endpoints={server.endpoint}", "put", path, value.decode()]
            subprocess.run(
                put, env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True
            )
        guest = host.guest(1)
        lease = eventually(guest.lease)
        assert lease is not None
        assert lease.address == "10.65.0.11"
        assert lease.addresses(6) == ["10.0.0.98"]
        assert int.from_bytes(lease.options[51], "big") == 600
        server.kill()
        assert eventually(guest.lease), "etcd is away"
        server.start()
        other = host.guest(2)
        assert eventually(other.lease), "and back"
    finally:
        process.terminate()
        assert process.wait(20) == 0
        server.kill()
