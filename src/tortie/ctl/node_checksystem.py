"""`tortie node checksystem`: has this machine what an agent needs?"""

from __future__ import annotations

import asyncio
import gzip
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.lib.errors import InvalidInput, TortieError

KERNEL_AT_LEAST = (5, 10)
"""Debian 11's; what the nftables encoder was tested with begins there."""

FAILED = 1

INTERFACE_PREFIX = "cali"
"""Of workloads' interfaces, where nobody has set another."""

OPTIONS = {
    "CONFIG_NF_TABLES": "nftables",
    "CONFIG_NF_TABLES_INET": "nftables of both families",
    "CONFIG_NFT_CT": "connection tracking in rules",
    "CONFIG_NF_CONNTRACK": "connection tracking",
    "CONFIG_NFT_NAT": "address translation",
    "CONFIG_NFT_MASQ": "masquerading",
    "CONFIG_VETH": "pairs of interfaces",
    "CONFIG_NET_NS": "network namespaces",
    "CONFIG_IPV6": "IPv6",
}
"""Of the kernel's build, and what they are for."""

_CONFIG_MAX_BYTES = 16 * 1024 * 1024


class Check(NamedTuple):
    name: str
    is_good: bool | None
    """None: it could not be told."""
    remedy: str = ""


def main(given: Given, screen: Screen) -> int:
    checks = list(run(Path(given.text("kernel-config")) if given.has("kernel-config") else None))
    for check in checks:
        word, colour = {True: ("OK", "green"), False: ("FAIL", "red"), None: ("?", "yellow")}[
            check.is_good
        ]
        screen.print(f"{check.name:<44}{screen.paint(word, colour)}")
        if not check.is_good and check.remedy:
            screen.print(f"    {check.remedy}")
    failed = [check.name for check in checks if check.is_good is False]
    if failed:
        screen.warn(f"{len(failed)} of {len(checks)} requirements are not met")
        return FAILED
    screen.print("System meets minimum system requirements")
    return 0


def run(config: Path | None) -> Iterator[Check]:
    """
    Args:
        config: the kernel's configuration, where it is not in a usual place.

    Raises:
        InvalidInput: `config` cannot be read.
    """
    yield from kernel_checks(config)
    yield from firewalls()
    yield Check(
        "BIRD, for routes by BGP", True if shutil.which("bird") else None,
        "not needed where the agent installs routes itself; Debian: apt install bird2",
    )  # fmt: skip


def kernel_checks(config: Path | None) -> Iterator[Check]:
    """What concerns the kernel alone. Raises as `run`."""
    release = platform.release()
    known = re.match(r"(\d+)\.(\d+)", release)
    version = (int(known[1]), int(known[2])) if known else (0, 0)
    least = ".".join(map(str, KERNEL_AT_LEAST))
    yield Check(f"kernel {release}", version >= KERNEL_AT_LEAST, f"{least} or later is needed")
    options = kernel_options(config, release)
    for option, meaning in OPTIONS.items():
        is_good = None if options is None else options.get(option) in ("y", "m")
        remedy = "where the kernel's configuration is, say with --kernel-config"
        if is_good is False:
            remedy = f"this kernel was built without {option}"
        yield Check(meaning, is_good, remedy)
    for path, meaning in (
        ("/proc/sys/net/ipv4/ip_forward", "IPv4 forwarding can be switched on"),
        ("/proc/sys/net/ipv4/conf/all/proxy_arp", "proxy ARP"),
        ("/proc/self/ns/net", "namespaces of processes"),
    ):
        yield Check(meaning, os.path.exists(path), f"{path} is not there")
    yield from probes()


def probes() -> Iterator[Check]:
    """What the kernel takes when it is tried; a configuration may promise more."""
    from tortie.kernel.nft import probe

    try:
        refused = probe.missing()
    except TortieError as error:
        for name in probe.PROBES:
            yield Check(name, None, f"{error}: only root can try")
        return
    for name in probe.PROBES:
        yield Check(name, name not in refused, refused.get(name, ""))


def firewalls() -> Iterator[Check]:
    """Other programs' chains that drop what workloads send; one check for each, or one."""
    # Not imported with the command line, which every command pays for.
    from tortie.kernel.firewall.obstacle import find_obstacles_here

    what = "other firewalls let workloads through"
    try:
        found = asyncio.run(find_obstacles_here(INTERFACE_PREFIX))
    except TortieError as error:
        yield Check(what, None, f"{error}: only root can see them")
        return
    for one in found:
        yield Check(f"{one.chain} lets workloads through", False, "; ".join(one.remedy))
    if not found:
        yield Check(what, True)


def kernel_options(config: Path | None, release: str) -> Mapping[str, str] | None:
    """Option → y or m; None if the configuration is nowhere.

    Raises:
        InvalidInput: `config` cannot be read.
    """
    usual = (Path("/proc/config.gz"), Path(f"/boot/config-{release}"))
    for path in (config,) if config else usual:
        try:
            raw = path.read_bytes()[:_CONFIG_MAX_BYTES]
            text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode(
                "ascii", "replace"
            )
        except (OSError, EOFError, ValueError) as error:
            if config:
                raise InvalidInput(f"cannot read {config}: {error}") from None
            continue
        return dict(re.findall(r"^(CONFIG_\w+)=([ym])$", text, re.MULTILINE))
    return None
