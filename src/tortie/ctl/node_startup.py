"""What `tortie node run` is to do, from its flags and from the environment. Pure.

The variables are those of Calico's node container, and those that its service
file (`calico.env`) has with `CALICO_` in front. A flag beats a variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tortie.ctl.grammar import Given
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.node import IPPoolSpec
from tortie.selector.syntax import parse

AS_NUMBER_MAX = 4294967295
BLOCK_SIZES = {4: range(20, 33), 6: range(116, 129)}
"""Calico's limits of IPPool's blockSize."""

AUTODETECT, NONE = "autodetect", "none"


class Address(NamedTuple):
    wanted: str
    """An address, `autodetect`, `none`, or empty: what the Node has, else detect it (IPv4)."""
    method: str


class Startup(NamedTuple):
    name: str
    addresses: Mapping[int, Address]
    """By family."""
    as_number: int | None
    kubernetes_node: str
    """What Kubernetes calls this host; empty: it has not been said."""
    makes_pools: bool
    pools: Mapping[int, IPPoolSpec | None]
    """By family, CIDR empty for one of the defaults; None: no pool of that family."""
    waits: bool
    """For the datastore, however long."""
    nodename_file: str


def read(given: Given, environment: Mapping[str, str], hostname: str) -> Startup:
    """
    Raises:
        InvalidInput: naming the flag or variable.
    """
    env = _Environment(environment)
    if env.text("CALICO_NETWORKING_BACKEND") == "vxlan":
        raise InvalidInput("CALICO_NETWORKING_BACKEND: there are no overlays here; bird or none")
    name = given.text("name") or env.text("NODENAME", "CALICO_NODENAME", "FELIX_FELIXHOSTNAME")
    number = given.text("as")
    return Startup(
        name=(name or hostname).lower(),
        addresses={
            4: Address(
                given.text("ip") or env.text("IP", "CALICO_IP"),
                given.text("ip-autodetection-method")
                or env.text("IP_AUTODETECTION_METHOD", "CALICO_IP_AUTODETECTION_METHOD")
                or "first-found",
            ),
            6: Address(
                given.text("ip6") or env.text("IP6", "CALICO_IP6"),
                given.text("ip6-autodetection-method")
                or env.text("IP6_AUTODETECTION_METHOD", "CALICO_IP6_AUTODETECTION_METHOD")
                or "first-found",
            ),
        },
        as_number=_as_number("--as", number)
        if number
        else _as_number("AS", env.text("AS", "CALICO_AS")),
        kubernetes_node=env.text("CALICO_K8S_NODE_REF"),
        makes_pools=not (
            given.has("no-default-ippools")
            or env.flag(False, "NO_DEFAULT_POOLS", "CALICO_NO_DEFAULT_POOLS")
        ),
        pools={family: _pool(env, family) for family in (4, 6)},
        waits=env.flag(False, "WAIT_FOR_DATASTORE"),
        nodename_file=env.text("CALICO_NODENAME_FILE") or "/var/lib/calico/nodename",
    )


class _Environment:
    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, *names: str) -> str:
        """The first that is set and not empty."""
        return next((found for name in names if (found := self._values.get(name, "").strip())), "")

    def flag(self, default: bool, *names: str) -> bool:
        text = self.text(*names).lower()
        if text in ("true", "yes", "1", "t", "y"):
            return True
        if text in ("false", "no", "0", "f", "n"):
            return False
        if text:
            raise InvalidInput(f"{names[0]} is true or false, not {text!r}")
        return default


def _as_number(origin: str, text: str) -> int | None:
    if not text:
        return None
    is_number = text.isascii() and text.isdecimal() and len(text) <= 10
    if not is_number or not 0 < int(text) <= AS_NUMBER_MAX:
        raise InvalidInput(f"{origin}: {text!r} is no AS number")
    return int(text)


def _pool(env: _Environment, family: int) -> IPPoolSpec | None:
    start = f"CALICO_IPV{family}POOL_"
    for overlay in ("IPIP", "VXLAN"):
        if env.text(start + overlay).lower() not in ("", "never", "off"):
            raise InvalidInput(f"{start}{overlay}: there are no overlays here; leave it out")
    cidr = env.text(start + "CIDR")
    if family == 6 and not cidr:
        return None
    if cidr and parse_network(cidr).family != family:
        raise InvalidInput(f"{start}CIDR: {cidr} is not of IPv{family}")
    selector = env.text(start + "NODE_SELECTOR") or "all()"
    parse(selector)
    return IPPoolSpec(
        cidr=cidr,
        # As in Calico: IPv4 workloads reach the world by their host's address, IPv6 by their own.
        nat_outgoing=env.flag(family == 4, start + "NAT_OUTGOING"),
        block_size=_block_size(env.text(start + "BLOCK_SIZE"), family),
        node_selector=selector,
        disable_bgp_export=env.flag(False, start + "DISABLE_BGP_EXPORT"),
    )


def _block_size(text: str, family: int) -> int:
    """0 is the default."""
    if not text:
        return 0
    sizes = BLOCK_SIZES[family]
    if not text.isascii() or not text.isdecimal() or int(text) not in sizes:
        raise InvalidInput(
            f"CALICO_IPV{family}POOL_BLOCK_SIZE is a number from {sizes[0]} to {sizes[-1]}, "
            f"not {text!r}"
        )
    return int(text)
