"""Which address of this machine is the node's: Calico's methods. Pure; facts come in.

Source: Calico, node/pkg/lifecycle/startup/autodetection.
"""

import re
from collections.abc import Callable, Sequence

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network

SKIPPED = (
    *("^docker.*", "^cbr.*", "^dummy.*", "^virbr.*", "^lxcbr.*", "^veth.*", "^lo", "^cali.*"),
    *("^tunl.*", "^flannel.*", "^kube-ipvs.*", "^cni.*", "^vxlan.calico.*", "^vxlan-v6.calico.*"),
    *("^wireguard.cali.*", "^wg-v6.cali.*", "^nodelocaldns.*", "^podman.*"),
)
"""Interfaces that hold no node's address, unless `interface=` names them."""

_LOOPBACK = (Network(4, 127 << 24, 8), Network(6, 1, 128))
_LINK_LOCAL = (Network(4, 0xA9FE0000, 16), Network(6, 0xFE80 << 112, 10))
_MULTICAST = (Network(4, 0xE0000000, 4), Network(6, 0xFF << 120, 8))


class Address(msgspec.Struct, frozen=True):
    address: Network
    """Of full length."""
    length: int
    """Of its subnet."""

    def __str__(self) -> str:
        return f"{self.address.address_text}/{self.length}"


class Interface(msgspec.Struct, frozen=True):
    name: str
    up: bool
    addresses: tuple[Address, ...] = ()


class Detected(msgspec.Struct, frozen=True):
    address: Address | None
    interface: str
    reasons: tuple[str, ...]
    """What was looked at, in order, and why it was taken or left."""


Source = Callable[[str], Network | None]
"""The source address that the kernel takes towards an address or name; None: unreachable."""


def detect(
    method: str,
    family: int,
    interfaces: Sequence[Interface],
    source: Source,
    internal: Sequence[Network] = (),
) -> Detected:
    """
    Args:
        method: `first-found`, `can-reach=HOST`, `interface=REGEX,…`, `skip-interface=REGEX,…`,
            `cidr=NETWORK,…` or `kubernetes-internal-ip`.
        interfaces: in the kernel's order.
        internal: the node's InternalIPs of its Kubernetes object.

    Raises:
        InvalidInput: no such method, or its argument does not parse.
    """
    name, equals, argument = method.partition("=")
    search = _Search(family, interfaces)
    match name, bool(equals):
        case ("first-found" | "", False):
            return search.first(skip=SKIPPED)
        case ("skip-interface", True):
            return search.first(skip=(*SKIPPED, *_patterns(argument)))
        case ("interface", True):
            return search.by_name(_patterns(argument))
        case ("cidr", True):
            return search.within([parse_network(text.strip()) for text in argument.split(",")])
        case ("can-reach", True) if argument:
            return search.with_address(source(argument), f"the source towards {argument}")
        case ("kubernetes-internal-ip", False):
            wanted = next((address for address in internal if address.family == family), None)
            return search.with_address(wanted, "the node's InternalIP")
    raise InvalidInput(
        f"unknown method {method!r}; there are: first-found, can-reach=HOST, interface=REGEX, "
        "skip-interface=REGEX, cidr=NETWORK, kubernetes-internal-ip"
    )


def _patterns(argument: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in argument.split(",") if part.strip())
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InvalidInput(f"{pattern!r} is not a regular expression: {error}") from error
    if not patterns:
        raise InvalidInput("at least one regular expression is needed")
    return patterns


class _Search:
    def __init__(self, family: int, interfaces: Sequence[Interface]) -> None:
        self._family = family
        self._interfaces = interfaces
        self._reasons: list[str] = []

    def first(self, skip: Sequence[str]) -> Detected:
        for interface in self._interfaces:
            skipped = next((p for p in skip if re.search(p, interface.name)), None)
            if skipped is not None:
                self._reasons.append(f"{interface.name}: skipped, matches {skipped}")
            elif found := self._usable(interface):
                return self._found(interface, found[0])
        return self._none()

    def by_name(self, patterns: Sequence[str]) -> Detected:
        """The first pattern that leads to an address counts, then the kernel's order."""
        for pattern in patterns:
            for interface in self._interfaces:
                if not re.search(pattern, interface.name):
                    self._reasons.append(f"{interface.name}: does not match {pattern}")
                elif found := self._usable(interface):
                    return self._found(interface, found[0])
        return self._none()

    def within(self, networks: Sequence[Network]) -> Detected:
        for interface in self._interfaces:
            for address in self._usable(interface):
                if any(network.contains(address.address) for network in networks):
                    return self._found(interface, address)
                self._reasons.append(f"{interface.name}: {address} is in none of the networks")
        return self._none()

    def with_address(self, wanted: Network | None, what: str) -> Detected:
        if wanted is None or wanted.family != self._family:
            self._reasons.append(f"there is no IPv{self._family} address: {what}")
            return self._none()
        self._reasons.append(f"{what} is {wanted.address_text}")
        for interface in self._interfaces:
            for address in interface.addresses:
                if address.address == wanted:
                    return self._found(interface, address)
        self._reasons.append(f"no interface has {wanted.address_text}")
        return self._none()

    def _usable(self, interface: Interface) -> list[Address]:
        if not interface.up:
            self._reasons.append(f"{interface.name}: is down")
            return []
        usable = []
        for address in interface.addresses:
            if address.address.family != self._family:
                continue
            for networks, what in (
                (_LOOPBACK, "loopback"),
                (_LINK_LOCAL, "link-local"),
                (_MULTICAST, "multicast"),
            ):
                if any(network.contains(address.address) for network in networks):
                    self._reasons.append(f"{interface.name}: {address} is {what}")
                    break
            else:
                usable.append(address)
        if not usable:
            self._reasons.append(f"{interface.name}: has no usable IPv{self._family} address")
        return usable

    def _found(self, interface: Interface, address: Address) -> Detected:
        self._reasons.append(f"{interface.name}: {address} is taken")
        return Detected(address, interface.name, tuple(self._reasons))

    def _none(self) -> Detected:
        return Detected(None, "", tuple(self._reasons))
