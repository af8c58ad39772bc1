"""Calico's interface driver, for agents of Neutron's kind; `tortie dhcp` is none and needs none.

A port of an agent is a dummy device: what reaches it is routed, there is no bridge. It has the
port's addresses with their subnets' prefix lengths, by which dnsmasq knows what it serves, and
never the subnets' routes: the machines are elsewhere, each behind a route of its own.

Source: Calico, networking-calico, agent/linux/interface.py.
"""

from collections.abc import Sequence
from ipaddress import ip_interface

from neutron.agent.linux import interface, ip_lib
from neutron_lib import constants, exceptions

_KIND = "dummy"


class NotOurs(exceptions.NeutronException):
    message = "%(device)s is there and is no dummy device, but: %(kind)s. Delete it, or rename it."


class RoutedInterfaceDriver(interface.LinuxInterfaceDriver):
    """`interface_driver = calico`.

    Without a `namespace` a device is where the agent is, which is where machines' taps are.

    Errors: NotOurs; and as ip_lib has them, such as NetworkInterfaceNotFound.
    """

    DEV_NAME_PREFIX = "ns-"
    """Not `tap`, or the host's agent would take it for a machine's."""

    @property
    def use_gateway_ips(self) -> bool:
        """Each host can have the gateway's address, since none of them answers for it to others."""
        return True

    @property
    def bridged(self) -> bool:
        return False

    def plug(
        self,
        network_id: str,
        port_id: str,
        device_name: str,
        mac_address: str,
        bridge: str | None = None,
        namespace: str | None = None,
        prefix: str | None = None,
        mtu: int | None = None,
    ) -> None:
        """Make the device right, also one that an agent's death left half made."""
        device = ip_lib.IPDevice(device_name, namespace=namespace)
        if not device.exists():
            if namespace:
                ip_lib.IPWrapper().ensure_namespace(namespace)
            ip_lib.IPWrapper(namespace=namespace).add_dummy(device_name)
        elif device.link.link_kind != _KIND:
            raise NotOurs(device=device_name, kind=device.link.link_kind or "of no kind")
        if device.link.address != mac_address.lower():
            device.link.set_address(mac_address)
        if mtu:
            self.set_mtu(device_name, mtu, namespace=namespace)
        device.link.set_up()

    plug_new = plug

    def set_mtu(
        self, device_name: str, mtu: int, namespace: str | None = None, prefix: str | None = None
    ) -> None:
        link = ip_lib.IPDevice(device_name, namespace=namespace).link
        if link.mtu != mtu:
            link.set_mtu(mtu)

    def init_l3(
        self,
        device_name: str,
        ip_cidrs: Sequence[str],
        namespace: str | None = None,
        preserve_ips: Sequence[str] | None = None,
        clean_connections: bool = False,
    ) -> None:
        """Give the device these addresses, such as `10.65.0.1/24`, and no others."""
        super().init_l3(device_name, ip_cidrs, namespace, preserve_ips, clean_connections)
        subnets = {str(ip_interface(cidr).network) for cidr in (*ip_cidrs, *(preserve_ips or ()))}
        table = ip_lib.IPDevice(device_name, namespace=namespace).route
        for version in (constants.IP_VERSION_4, constants.IP_VERSION_6):
            for route in table.list_routes(version):
                if route["cidr"] in subnets and not route["via"]:
                    table.delete_route(route["cidr"], device=device_name, scope=route["scope"])

    def unplug(
        self,
        device_name: str,
        bridge: str | None = None,
        namespace: str | None = None,
        prefix: str | None = None,
    ) -> None:
        device = ip_lib.IPDevice(device_name, namespace=namespace)
        if device.exists():
            device.link.delete()
