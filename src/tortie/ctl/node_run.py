"""`tortie node run`: make this host a node of the cluster, and become its agent.

The Node resource gets this host's addresses; a new cluster gets a default pool. Then this
process is replaced by `tortie agent`.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence

import msgspec

from tortie.bgp import autodetect
from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.node import interfaces, source_towards
from tortie.ctl.screen import Screen
from tortie.ctl.writing import initialize
from tortie.datastore.resources import Resources
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeBGP, NodeSpec

DEFAULT_POOL = "default-ipv4-ippool"
DEFAULT_POOL_CIDRS = ("192.168.0.0/16", "172.16.0.0/16", "10.244.0.0/16")
"""The first that overlaps no address of this host; the names and the first are Calico's."""

AS_NUMBER_MAX = 4294967295


def main(given: Given, screen: Screen) -> int:
    name = given.text("name") or os.environ.get("NODENAME") or socket.gethostname().lower()
    command = [sys.executable, "-m", "tortie", "agent"]
    if given.has("config"):
        command += ["--config", given.text("config")]
    if given.has("felix-config"):
        command += ["--felix-config", given.text("felix-config")]
    settings = {"FELIX_FELIXHOSTNAME": name}
    number = _as_number(given.text("as"))
    if given.has("dryrun"):
        words = [f"{key}={value}" for key, value in settings.items()]
        screen.print(shlex.join([*words, *command]))
        return 0
    if os.geteuid() != 0:
        raise InvalidInput("tortie node run needs root")
    found = {family: _address(given, family) for family in (4, 6)}

    async def act(resources: Resources) -> None:
        await initialize(resources)
        await _write_node(resources, name, found, number)
        if not given.has("no-default-ippools"):
            await _write_pool(resources)

    access.with_resources(access.config_file(given), act)
    shown = ", ".join(address for address in found.values() if address) or "no address"
    screen.print(f"Node {name} with {shown}; starting the agent")
    screen.out.flush()
    os.execve(command[0], command, {**os.environ, **settings})  # noqa: S606 - ourselves
    return 0


def _as_number(text: str) -> int | None:
    """
    Raises:
        InvalidInput: it is no AS number.
    """
    if not text:
        return None
    is_number = text.isascii() and text.isdecimal() and len(text) <= 10
    if not is_number or not 0 < int(text) <= AS_NUMBER_MAX:
        raise InvalidInput(f"--as: {text!r} is no AS number")
    return int(text)


def _address(given: Given, family: int) -> str:
    """Of this host, with the length of its subnet; empty if it is to have none."""
    flag = "ip" if family == 4 else "ip6"
    text = given.text(flag, "autodetect" if family == 4 else "none")
    if text in ("none", ""):
        return ""
    if text != "autodetect":
        return given_address(text, family, interfaces())
    method = given.text(f"{flag}-autodetection-method", "first-found")
    found = autodetect.detect(method, family, interfaces(), lambda to: source_towards(to, family))
    if found.address is None:
        raise InvalidInput(f"no IPv{family} address found by {method}; give --{flag}")
    return str(found.address)


def given_address(text: str, family: int, found: Sequence[autodetect.Interface]) -> str:
    """
    Raises:
        InvalidInput: it is none of that family.
    """
    address = parse_address(text.partition("/")[0])
    if address.family != family:
        raise InvalidInput(f"{text} is not an IPv{family} address")
    if "/" in text:
        parse_network(text)
        return text
    own = [known for link in found for known in link.addresses if known.address == address]
    return f"{text}/{own[0].length if own else address.bits}"


async def _write_node(
    resources: Resources, name: str, found: Mapping[int, str], number: int | None
) -> None:
    """Only what is said here changes; labels and the rest stay."""
    try:
        node = (await resources.get(ResourceKey("Node", name))).resource
    except NotFound:
        node = Node(metadata=Metadata(name=name), spec=NodeSpec())
    assert isinstance(node, Node)
    bgp = node.spec.bgp or NodeBGP()
    bgp = msgspec.structs.replace(
        bgp,
        ipv4_address=found[4] or bgp.ipv4_address,
        ipv6_address=found[6] or bgp.ipv6_address,
        as_number=number or bgp.as_number,
    )
    spec = msgspec.structs.replace(node.spec, bgp=bgp)
    await resources.apply(msgspec.structs.replace(node, spec=spec))


async def _write_pool(resources: Resources) -> None:
    if (await resources.list("IPPool")).items:
        return
    own = [
        Network(known.address.family, known.address.value, known.address.bits)
        for link in interfaces()
        for known in link.addresses
    ]
    cidr = default_pool(own, os.environ.get("CALICO_IPV4POOL_CIDR", ""))
    spec = IPPoolSpec(cidr=cidr, nat_outgoing=True)
    try:
        await resources.create(IPPool(metadata=Metadata(name=DEFAULT_POOL), spec=spec))
    except AlreadyExists:
        return  # another new node was faster


def default_pool(own: Sequence[Network], asked: str) -> str:
    """
    Raises:
        InvalidInput: every default has an address of this host in it.
    """
    for cidr in (asked,) if asked else DEFAULT_POOL_CIDRS:
        network = parse_network(cidr)
        if asked or not any(network.overlaps(address) for address in own):
            return cidr
    raise InvalidInput("every default pool overlaps this host's own; set CALICO_IPV4POOL_CIDR")
