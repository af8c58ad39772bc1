"""Checks of `tortie doctor`: the kernel, and who else changes it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from pathlib import Path

from tortie.ctl import node_checksystem
from tortie.ctl.diagnosis import Finding, Host, good, problem, unknown, warning
from tortie.dataplane.driver import nftables
from tortie.dataplane.rules import early
from tortie.kernel import sysctl
from tortie.kernel.firewall.obstacle import find_obstacles_here
from tortie.kernel.nft.connection import Nft, supports_owner_tables
from tortie.kernel.nft.constants import TableFlag
from tortie.kernel.nft.objects import TableName
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import NotFound, TortieError

FULL = 0.8
"""Part of a table, or of a disk, from which on it is worth a word."""

DISK_BYTES = 64 * 1024 * 1024
"""Journals and logs need little; less than this is no disk to work on."""


def requirements(_: Host) -> Finding:
    """What `node checksystem` says of the kernel."""
    checks = list(node_checksystem.kernel_checks(None))
    failed = [check for check in checks if check.is_good is False]
    if failed:
        return problem(
            "; ".join(check.name for check in failed), "; ".join(c.remedy for c in failed)
        )
    return good(f"kernel {platform.release()} has what is needed, as far as it tells")


def answers(_: Host) -> Finding:
    """nf_tables, asked as the agent asks it."""
    if os.geteuid() != 0:
        return unknown("only root may ask", "run tortie doctor as root")
    try:
        count = len(_tables())
    except TortieError as error:
        return problem(
            f"nf_tables does not answer: {error}", "load it: modprobe nf_tables; or another kernel"
        )
    return good(f"nf_tables answers; {count} tables")


def owned_tables(_: Host) -> Finding:
    if os.geteuid() != 0:
        return unknown("only root may ask", "run tortie doctor as root")
    if supports_owner_tables():
        return good("the kernel has owned tables: others cannot flush ours")
    return warning(
        "the kernel has no owned tables: if somebody flushes the ruleset, workloads are cut off "
        "and host endpoints open until the agent's repair, some milliseconds later",
        "Linux 6.9 or later; on Debian 12 from backports. Until then keep `nft flush ruleset` off "
        "this host (nftables.service does it when it restarts)",
    )


def policy(host: Host) -> Finding:
    """Whether what the agent writes is there, alone, and awake."""
    if os.geteuid() != 0:
        return unknown("only root may ask", "run tortie doctor as root")
    tables = _tables()
    awake = {name for name, flags in tables.items() if not flags & TableFlag.DORMANT}
    is_closed = any(name in tables for name in early.TABLES)
    if nftables.INET in awake and nftables.ARP in awake:
        if not is_closed:
            return good("the tables inet tortie and arp tortie are in force")
        return problem(
            "the early ruleset is still there, and keeps workloads closed",
            "restart the agent: systemctl restart tortie-agent; its log names the owner of "
            "tortie-early if it may not remove it",
        )
    if is_closed:
        return warning(
            "workload interfaces are closed: the agent has not said yet who may pass",
            "see the checks of the datastore and of the agent",
        )
    names = " and ".join(f"{prefix}*" for prefix in host.interface_prefixes)
    return problem(
        f"there is no policy in force, and interfaces {names} are open",
        "start the agent: tortie node install; or close them: tortie node close",
    )


def firewalls(host: Host) -> Finding:
    """Chains of others that drop what workloads send; an accept of ours cannot help."""
    if os.geteuid() != 0:
        return unknown("only root may ask", "run tortie doctor as root")
    found = [
        obstacle
        for prefix in host.interface_prefixes
        for obstacle in asyncio.run(find_obstacles_here(prefix))
    ]
    if found:
        return problem(
            "; ".join(f"{one.chain} drops workloads' traffic" for one in found),
            "; ".join(command for one in found for command in one.remedy),
        )
    return good("other firewalls let workloads through")


def foreign_agents(_: Host) -> Finding:
    """Another Calico on the same interfaces."""
    if os.geteuid() != 0:
        return unknown("only root may ask", "run tortie doctor as root")
    chains = asyncio.run(_foreign_chains())
    if not chains:
        return good("no other agent's chains (cali-*) are there")
    return warning(
        f"chains of another Calico agent are in {', '.join(sorted(chains))}: what it drops is "
        "dropped",
        "if it has been stopped for good, remove them: reboot, or `nft delete table` where they "
        "are alone",
    )


def forwarding(host: Host) -> Finding:
    wanted = {"ipv4/ip_forward": "IPv4"}
    if host.config["Ipv6Support"]:
        wanted["ipv6/conf/all/forwarding"] = "IPv6"
    off = []
    for key, name in wanted.items():
        try:
            if sysctl.get_global(key) != "1":
                off.append(name)
        except NotFound:
            continue  # a kernel without IPv6
    if off:
        return problem(
            f"{' and '.join(off)} is not forwarded",
            "the agent switches it on when it starts; if something switches it off again, look "
            "for it in /etc/sysctl.conf and /etc/sysctl.d",
        )
    return good(f"{' and '.join(wanted.values())} is forwarded")


def connections(_: Host) -> Finding:
    """A full table of connections drops the first packet of each new one."""
    try:
        count = int(sysctl.get_global("netfilter/nf_conntrack_count"))
        limit = int(sysctl.get_global("netfilter/nf_conntrack_max"))
    except (TortieError, ValueError):
        return unknown("connections are not tracked yet")
    if limit and count > limit * FULL:
        return warning(
            f"{count} of {limit} connections are in use",
            f"sysctl -w net.netfilter.nf_conntrack_max={limit * 4}, and in /etc/sysctl.d",
        )
    return good(f"{count} of {limit} connections are in use")


def mtu(host: Host) -> Finding:
    """Packets that fit a workload's link must fit the way out."""
    prefixes = host.interface_prefixes
    with Rtnl.open() as rtnl:
        links = rtnl.links()
        out = {route.interface for route in rtnl.routes() if route.gateway is not None}
        # Alone on its segment: whatever has an address.
        out = out or {address.interface for address in rtnl.addresses()}
    uplinks = [
        link
        for link in links
        if link.index in out and link.name != "lo" and not link.name.startswith(prefixes)
    ]
    if not uplinks:
        return unknown("no interface leads to other hosts")
    least = min(uplinks, key=lambda link: link.mtu)
    large = [link.name for link in links if link.name.startswith(prefixes) and link.mtu > least.mtu]
    if large:
        return problem(
            f"{', '.join(large[:5])} have an MTU over that of {least.name}, {least.mtu}: large "
            "packets to other hosts are lost where nobody answers with ICMP",
            f"echo {least.mtu} > /var/lib/calico/mtu, and attach these workloads anew",
        )
    return good(f"{least.name} has {least.mtu}, and no workload more")


def room(host: Host) -> Finding:
    for directory in (host.state_directory, host.run_directory):
        place = next(path for path in (directory, *directory.parents) if path.exists())
        usage = shutil.disk_usage(place)
        if usage.free < DISK_BYTES:
            return problem(
                f"{place} has {usage.free // 1024**2} MiB left",
                "make room: without it no workload can be attached",
            )
    return good("there is room for state and sockets")


def _tables() -> dict[TableName, TableFlag]:
    async def ask() -> dict[TableName, TableFlag]:
        nft = Nft.open()
        try:
            return {table.table_name: table.flags for table in await nft.tables()}
        finally:
            nft.close()

    return asyncio.run(ask())


async def _foreign_chains() -> set[str]:
    nft = Nft.open()
    try:
        found = set()
        for table in await nft.tables():
            try:
                chains = await nft.chains(table.table_name)
            except NotFound:
                continue  # gone meanwhile
            if any(chain.name.startswith("cali-") for chain in chains):
                found.add(str(table.table_name))
        return found
    finally:
        nft.close()


def legacy_tables(_: Host) -> Finding:
    """iptables-legacy has rules of its own, which nft does not show."""
    names = []
    for path in (Path("/proc/net/ip_tables_names"), Path("/proc/net/ip6_tables_names")):
        try:
            names += path.read_text().split()
        except OSError:
            continue
    if names:
        return warning(
            f"iptables-legacy has tables ({', '.join(sorted(set(names)))}), which `nft list "
            "ruleset` does not show",
            "see iptables-legacy-save; move to iptables-nft if nothing needs them",
        )
    return good("no tables of iptables-legacy")
