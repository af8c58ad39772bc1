"""Two real hosts with real workloads, on which a world is enforced and packets are tried.

Each host is a network namespace with its own calc and its own dataplane, joined by a veth; each
workload is a namespace behind one of them. A packet is put on the workload's wire as a frame, so
that any protocol and any ICMP type can be sent, and is looked for on the wires of all workloads:
everything in between is the kernel, as it forwards, tracks and filters for everyone.
"""

import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from tests.graph.resources import State
from tests.netns.dataplane_host import HOST_MAC, Host, Workload
from tests.oracle.clusters import HOSTS, SLOTS, Slot
from tests.oracle.comparison import differences
from tests.oracle.frames import ETHERNET_BYTES, frame, number_in

from tortie.calc.graph import Graph
from tortie.dataplane.manager.seen import Seen
from tortie.dataplane.rules.seen import GROUP
from tortie.dataplane.settings import DenyAction, Settings
from tortie.explain.oracle import Packet
from tortie.kernel.netns import create_anonymous, enter, open_socket_in
from tortie.kernel.nflog import QUEUE_SECONDS, Nflog
from tortie.kernel.rtnl.link import VethPeer, parse_mac

WAIT_SECONDS = 2.0
"""For packets that should arrive: they take well under a millisecond on an idle machine."""
GRACE_SECONDS = 0.02
"""For packets that should not, after the last one that should."""

_UPLINK = "uplink"
_UPLINK_MACS = {name: bytes((2, 0, 0, 0, 1, index)) for index, name in enumerate(HOSTS)}


class TwoHosts:
    """What is enforced is the state that was given last. Close it at the end."""

    def __init__(self, mark_mask: int = 0xFFFF0000, deny_action: DenyAction = "Drop") -> None:
        self.state: State = {}
        self._namespaces = {name: create_anonymous() for name in HOSTS}
        self._hosts: dict[str, Host] = {}
        self._logs: dict[str, Nflog] = {}
        self._graphs: dict[str, Graph] = {}
        self._workloads: dict[Slot, Workload] = {}
        self._wires: dict[int, _Wire] = {}
        for name, namespace in self._namespaces.items():
            with enter(namespace):
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                settings = Settings(
                    host=name,
                    log_denied=True,
                    log_allowed=True,
                    mark_mask=mark_mask,
                    deny_action=deny_action,
                )
                self._hosts[name] = Host(settings)
                self._logs[name] = Nflog.open(GROUP)
        self._join()
        for slot in SLOTS:
            self._attach(slot)
        self.restart()
        # Connection tracking may not check sums: of UDP-Lite it calculates wrong ones.
        for name in HOSTS:
            self._run(name, "sysctl -qw net.netfilter.nf_conntrack_checksum=0")

    def restart(self) -> None:
        """As if the agents had just started, and the datastore were empty."""
        self.state = {}
        for name, host in self._hosts.items():
            with enter(self._namespaces[name]):
                self._graphs[name] = Graph(name, host.restart().on_update)
                self._graphs[name].flush()
                host.resync()

    def enforce(self, state: State) -> None:
        """Go to this state by what differs, as watches would tell it."""
        changes = differences(self.state, state)
        self.state = state
        for name, host in self._hosts.items():
            graph = self._graphs[name]
            for key, value in changes.items():
                graph.on_update(key, value)
            graph.flush()
            assert not graph.problems, "the worlds are valid"
            with enter(self._namespaces[name]):
                host.apply()
            assert host.dataplane.in_sync
            # What was allowed before may not help what is tried now.
            host.conntrack.delete(host.conntrack.flows())

    def probe_all(
        self,
        packets: Sequence[Packet],
        expected: Sequence[bool],
        wait_seconds: float = WAIT_SECONDS,
    ) -> list[bool]:
        """Whether each arrives.

        Args:
            packets: no two of one connection; their ends are workloads'.
            expected: which to wait for; the others get a moment too.
        """
        for _ in self._arrivals(0.0):
            pass  # answers to what was sent before
        for number, packet in enumerate(packets):
            slot = _SLOTS[packet.source.address_text]
            macs = {
                "source_mac": parse_mac(slot.mac),
                "destination_mac": parse_mac(HOST_MAC),
            }
            wire = self._wire(slot, packet.source.family)
            wire.socket.send(frame(packet, number, **macs))
        arrived = [False] * len(packets)
        give_up = time.monotonic() + wait_seconds
        while time.monotonic() < give_up:
            for number, slot in self._arrivals(GRACE_SECONDS):
                # An error message quotes the packet, but goes to its sender.
                if slot == _SLOTS[packets[number].destination.address_text]:
                    arrived[number] = True
            if all(here for here, wanted in zip(arrived, expected, strict=True) if wanted):
                break
        return arrived

    def seen(self) -> list[tuple[int, Seen]]:
        """What the hosts have logged of our packets since this was last asked, by number."""
        time.sleep(1.25 * QUEUE_SECONDS)
        found = []
        for name, log in self._logs.items():
            for logged in log.read():
                number = number_in(bytes(ETHERNET_BYTES) + logged.payload)
                judged = self._hosts[name].dataplane.see(logged)
                if number is not None and judged is not None:
                    found.append((number, judged))
            assert log.lost_count == 0
        return found

    def ruleset(self) -> str:
        """Both hosts', for whoever must find out who is wrong."""
        listings = []
        for name, namespace in self._namespaces.items():
            with enter(namespace):
                listed = subprocess.run(
                    ["nft", "list", "table", "inet", "tortie"], capture_output=True, text=True
                )
            listings.append(f"# {name}\n{listed.stdout}")
        return "".join(listings)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.socket.close()
        for host in self._hosts.values():
            host.close()
        for log in self._logs.values():
            log.close()
        for workload in self._workloads.values():
            os.close(workload.namespace)
        for namespace in self._namespaces.values():
            os.close(namespace)

    def _run(self, name: str, script: str) -> None:
        """Shell commands on a host; each must succeed."""
        with enter(self._namespaces[name]):
            subprocess.run(["sh", "-ec", script], check=True)

    def _join(self) -> None:
        """One wire between the hosts. Their addresses are known, so nothing is asked for."""
        (here, there) = HOSTS
        peer = VethPeer(name=_UPLINK, namespace=self._namespaces[there], mac=_UPLINK_MACS[there])
        with enter(self._namespaces[here]):
            self._hosts[here].rtnl.create_veth(_UPLINK, peer, mac=_UPLINK_MACS[here])
        for name, other in ((here, there), (there, here)):
            mac = ":".join(f"{byte:02x}" for byte in _UPLINK_MACS[other])
            script = f"""ip link set {_UPLINK} up
                ip addr add {HOSTS[name][0]}/24 dev {_UPLINK}
                ip addr add {HOSTS[name][1]}/64 dev {_UPLINK} nodad
                ip neigh add {HOSTS[other][0]} lladdr {mac} dev {_UPLINK}
                ip neigh add {HOSTS[other][1]} lladdr {mac} dev {_UPLINK}"""
            self._run(name, script)

    def _attach(self, slot: Slot) -> None:
        with enter(self._namespaces[slot.host]):
            workload = Workload(slot.number, self._hosts[slot.host].rtnl)
        assert (workload.interface, workload.mac) == (slot.interface, slot.mac)
        self._workloads[slot] = workload
        for family, ethertype in _ETHERTYPES.items():
            wire = open_socket_in(
                workload.namespace, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype)
            )
            wire.bind(("eth0", ethertype))
            wire.setblocking(False)
            self._wires[wire.fileno()] = _Wire(slot, family, wire)

    def _wire(self, slot: Slot, family: int) -> "_Wire":
        return next(
            wire for wire in self._wires.values() if (wire.slot, wire.family) == (slot, family)
        )

    def _arrivals(self, quiet_seconds: float) -> Iterator[tuple[int, Slot]]:
        """Our packets' numbers, and where they are, until nothing has come for so long."""
        poll = select.poll()
        for descriptor in self._wires:
            poll.register(descriptor, select.POLLIN)
        while ready := poll.poll(quiet_seconds * 1000):
            for descriptor, _ in ready:
                wire = self._wires[descriptor]
                with suppress(BlockingIOError):
                    while True:
                        number = number_in(wire.socket.recv(2048))
                        if number is not None:
                            yield number, wire.slot


class _Wire(NamedTuple):
    """One family of one workload's interface, as seen from inside: what it sends is not seen."""

    slot: Slot
    family: int
    socket: socket.socket


_SLOTS = {address: slot for slot in SLOTS for address in (slot.ipv4, slot.ipv6)}
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
