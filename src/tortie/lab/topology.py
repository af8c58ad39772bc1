"""The lab's wires: one switch namespace, one namespace per host, a veth between.

Each host's end is `eth0`, with an address on the segment; nothing else of the
host is set up here, the agent does that as it would on a real one.
"""

import contextlib
import os

from tortie.kernel import netns, sysctl
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.lab.description import ETCD_ORDINAL, FABRIC, FABRIC6, Host, Lab
from tortie.lib.errors import NotFound

BRIDGE = "br0"
HOST_INTERFACE = "eth0"


def build_fabric(lab: Lab) -> None:
    """The switch, with the address where etcd listens."""
    path = netns.create_named(lab.fabric_namespace)

    def make() -> None:
        sysctl.set_global("ipv6/conf/all/disable_ipv6", 0 if lab.ipv6 else 1)
        with Rtnl.open() as rtnl:
            rtnl.change_link(rtnl.link("lo").index, LinkChange(up=True))
            bridge = rtnl.create_bridge(BRIDGE)
            rtnl.change_link(bridge.index, LinkChange(up=True))
            rtnl.add_address(
                Address(
                    interface=bridge.index,
                    address=FABRIC.address(ETCD_ORDINAL),
                    length=FABRIC.length,
                )
            )

    netns.run_in(path, make)


def port_of(host: Host) -> str:
    """The switch's end of a host's cable."""
    return f"p{host.ordinal}"


def build_host(lab: Lab, host: Host) -> None:
    """A host's namespace, plugged into the switch."""
    path = netns.create_named(lab.host_namespace(host.name))
    fabric = netns.open_namespace(netns.named_path(lab.fabric_namespace))
    port = port_of(host)

    def make() -> None:
        with Rtnl.open() as rtnl:
            rtnl.change_link(rtnl.link("lo").index, LinkChange(up=True))
            # Before the link is up, or the kernel announces addresses of its own.
            sysctl.set_interface(6, "default", "accept_ra", 0)
            link = rtnl.create_veth(HOST_INTERFACE, VethPeer(name=port, namespace=fabric))
            sysctl.set_interface(6, HOST_INTERFACE, "accept_dad", 0)
            rtnl.change_link(link.index, LinkChange(up=True))
            rtnl.add_address(Address(interface=link.index, address=host.ipv4, length=FABRIC.length))
            if lab.ipv6:
                rtnl.add_address(
                    Address(interface=link.index, address=host.ipv6, length=FABRIC6.length)
                )

    def plug() -> None:
        with Rtnl.open() as rtnl:
            bridge = rtnl.link(BRIDGE)
            rtnl.change_link(rtnl.link(port).index, LinkChange(master=bridge.index, up=True))

    try:
        netns.run_in(path, make)
        netns.run_in(fabric, plug)
    finally:
        os.close(fabric)


def namespaces(lab_prefix: str) -> list[str]:
    """Names of all namespaces that belong to a lab, its workloads' included."""
    return [name for name in netns.list_named() if name.startswith(lab_prefix)]


def remove_namespaces(lab_prefix: str) -> None:
    """Remove every namespace of a lab, and with them their links and routes."""
    leftovers = [name for name in netns.list_leftovers() if name.startswith(lab_prefix)]
    for name in [*namespaces(lab_prefix), *leftovers]:
        with contextlib.suppress(NotFound):
            netns.delete_named(name)
