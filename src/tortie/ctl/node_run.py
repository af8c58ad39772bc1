"""`tortie node run`: make this host a node of the cluster, and become its agent.

Workload interfaces are closed first, unless policy is in force. The Node
resource gets this host's addresses; a new cluster gets a default pool. Then this
process is replaced by `tortie agent`. What a node is told, flags and variables
of Calico's names, is in `node_startup`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tortie.agent.config import FELIX_CFG, Config, read_local, resolve
from tortie.agent.health_server import waiting
from tortie.bgp import autodetect
from tortie.ctl import access, node_startup
from tortie.ctl.grammar import Given
from tortie.ctl.node import interfaces, source_towards
from tortie.ctl.node_close import close
from tortie.ctl.node_startup import AUTODETECT, NONE, Startup
from tortie.ctl.screen import Screen
from tortie.ctl.writing import initialize
from tortie.datastore.connect import connect, from_environment
from tortie.datastore.resources import Resources
from tortie.lib import supervisor
from tortie.lib.backoff import Backoff
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound, Unavailable
from tortie.lib.files import replace_file
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeBGP, NodeSpec, OrchRef

DEFAULT_POOLS = {4: "default-ipv4-ippool", 6: "default-ipv6-ippool"}
DEFAULT_POOL_CIDRS = ("192.168.0.0/16", "172.16.0.0/16", "10.244.0.0/16")
"""The first that overlaps no address of this host; the names and the first are Calico's."""


def main(given: Given, screen: Screen) -> int:
    startup = node_startup.read(given, os.environ, socket.gethostname())
    command = [sys.executable, "-P", "-m", "tortie", "agent"]
    for flag in ("config", "felix-config"):
        if given.has(flag):
            command += [f"--{flag}", given.text(flag)]
    settings = {"FELIX_FELIXHOSTNAME": startup.name}
    if given.has("dryrun"):
        words = [f"{key}={value}" for key, value in settings.items()]
        screen.print(shlex.join([*words, *command]))
        return 0
    if os.geteuid() != 0:
        raise InvalidInput("tortie node run needs root")
    supervisor.notify(READY="1", STATUS="waiting for the datastore")
    close(given)
    felix = Path(given.text("felix-config", str(FELIX_CFG)))
    config = resolve(read_local({**os.environ, **settings}, felix))
    node = asyncio.run(_wait_and_register(config, startup, access.config_file(given), screen))
    _write_name(startup, screen)
    screen.print(f"Node {startup.name} with {node or 'no address'}; starting the agent")
    screen.out.flush()
    os.execve(command[0], command, {**os.environ, **settings})  # noqa: S606 - ourselves
    return 0


async def _wait_and_register(
    config: Config, startup: Startup, config_file: Path | None, screen: Screen
) -> str:
    async with waiting(config):
        return await _register(startup, config_file, screen)


async def _register(startup: Startup, config: Path | None, screen: Screen) -> str:
    """Write Node and pools; returns the Node's addresses for people."""
    backoff = Backoff(0.2, 10.0)
    said = ""
    while True:
        try:
            client = await connect(from_environment(os.environ, config), create=True)
            try:
                resources = Resources(client)
                await initialize(resources)
                bgp = await _write_node(resources, startup)
                if startup.makes_pools:
                    await _write_pools(resources, startup.pools)
                return ", ".join(text for text in (bgp.ipv4_address, bgp.ipv6_address) if text)
            finally:
                await client.close()
        except NotFound as error:
            raise Unavailable(str(error)) from error
        except Unavailable as error:
            if not startup.waits:
                raise
            if str(error) != said:
                screen.warn(f"waiting for the datastore: {error}")
                said = str(error)
            supervisor.alive()
            await asyncio.sleep(backoff.next_seconds())


def _address(startup: Startup, family: int, stored: str) -> str:
    """Of this host, with the length of its subnet; empty if it is to have none."""
    wanted, method = startup.addresses[family]
    if not wanted:
        wanted = stored or (AUTODETECT if family == 4 else NONE)
    if wanted == NONE:
        return ""
    if wanted != AUTODETECT:
        return given_address(wanted, family, interfaces())
    found = autodetect.detect(method, family, interfaces(), lambda to: source_towards(to, family))
    if found.address is None:
        flag = "ip" if family == 4 else "ip6"
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
        length = text.partition("/")[2]
        if not length.isdecimal() or int(length) > address.bits:
            raise InvalidInput(f"{text} is not an address with the length of its subnet")
        return text
    own = [known for link in found for known in link.addresses if known.address == address]
    return f"{text}/{own[0].length if own else address.bits}"


async def _write_node(resources: Resources, startup: Startup) -> NodeBGP:
    """Only what is said here changes; labels and the rest stay. Nothing new, no write."""
    try:
        node = (await resources.get(ResourceKey("Node", startup.name))).resource
    except NotFound:
        node = Node(metadata=Metadata(name=startup.name), spec=NodeSpec())
    assert isinstance(node, Node)
    before = node.spec.bgp or NodeBGP()
    bgp = msgspec.structs.replace(
        before,
        ipv4_address=_address(startup, 4, before.ipv4_address) or before.ipv4_address,
        ipv6_address=_address(startup, 6, before.ipv6_address) or before.ipv6_address,
        as_number=startup.as_number or before.as_number,
    )
    # Without an address there is nothing for BGP to say: an empty `bgp` is invalid.
    bgp_or_none = node.spec.bgp if bgp == NodeBGP() else bgp
    references = _references(node.spec.orch_refs, startup.kubernetes_node)
    spec = msgspec.structs.replace(node.spec, bgp=bgp_or_none, orch_refs=references)
    if spec != node.spec or not node.metadata.uid:
        await resources.apply(msgspec.structs.replace(node, spec=spec))
    return bgp


def _references(known: tuple[OrchRef, ...], kubernetes_node: str) -> tuple[OrchRef, ...]:
    """With Kubernetes' name for this host, if that was said."""
    if not kubernetes_node:
        return known
    others = [reference for reference in known if reference.orchestrator != "k8s"]
    return (*others, OrchRef(node_name=kubernetes_node, orchestrator="k8s"))


async def _write_pools(resources: Resources, pools: Mapping[int, IPPoolSpec | None]) -> None:
    """Where there are none: somebody who has one has decided what there is."""
    if (await resources.list("IPPool")).items:
        return
    own = [
        Network(known.address.family, known.address.value, known.address.bits)
        for link in interfaces()
        for known in link.addresses
    ]
    for family, spec in pools.items():
        if spec is None:
            continue
        if not spec.cidr:
            spec = msgspec.structs.replace(spec, cidr=default_pool(own))
        try:
            name = Metadata(name=DEFAULT_POOLS[family])
            await resources.create(IPPool(metadata=name, spec=spec))
        except AlreadyExists:
            continue  # another new node was faster


def default_pool(own: Sequence[Network]) -> str:
    """
    Raises:
        InvalidInput: every default has an address of this host in it.
    """
    for cidr in DEFAULT_POOL_CIDRS:
        network = parse_network(cidr)
        if not any(network.overlaps(address) for address in own):
            return cidr
    raise InvalidInput("every default pool overlaps this host's own; set CALICO_IPV4POOL_CIDR")


def _write_name(startup: Startup, screen: Screen) -> None:
    """For CNI plugins and others that ask it what this node is called."""
    try:
        replace_file(Path(startup.nodename_file), startup.name.encode(), 0o644)
    except Unavailable as error:
        screen.warn(f"the node's name could not be written: {error}")
