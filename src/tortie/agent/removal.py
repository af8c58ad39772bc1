"""Takes out of the kernel what the agent has put there, when a host is given up.

No agent may run meanwhile: the right to our tables is the keeper's to give.
"""

import os
from pathlib import Path
from typing import NamedTuple

from tortie.agent.ownership import obtain
from tortie.agent.parameters import workload_prefixes
from tortie.dataplane.driver import nftables, unseen_rule
from tortie.dataplane.rules import early
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.transaction import Transaction
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import Link, LinkChange
from tortie.kernel.rtnl.route import TABLE_MAIN


class Removed(NamedTuple):
    tables: int
    routes: int


def workload_links(prefix: str) -> list[Link]:
    with Rtnl.open() as rtnl:
        return [link for link in rtnl.links() if link.name.startswith(workload_prefixes(prefix))]


async def remove_state(run_directory: Path, prefix: str, route_protocol: int) -> Removed:
    """Remove our routes and tables. Workload interfaces are taken down before: without
    tables they would be open.

    Raises:
        AlreadyExists: the agent still runs.
        KernelRefused: no permission, or a table belongs to another living process.
    """
    ownership = obtain(run_directory)
    try:
        with Rtnl.open() as rtnl:
            for link in rtnl.links():
                if link.name.startswith(workload_prefixes(prefix)):
                    rtnl.change_link(link.index, LinkChange(up=False))
            routes = rtnl.routes(table=TABLE_MAIN, protocol=route_protocol)
            rtnl.delete_routes(routes)
            rtnl.unguard_links()
            unseen_rule.remove(rtnl, route_protocol)
        nft = Nft(NetlinkSocket.adopt(os.dup(ownership.netlink.fileno())))
        try:
            there = {table.table_name for table in await nft.tables()}
            ours = [name for name in (nftables.INET, nftables.ARP, *early.TABLES) if name in there]
            transaction = Transaction()
            for name in ours:
                transaction.delete_table(name)
            await nft.commit(transaction)
        finally:
            nft.close()
        return Removed(len(ours), len(routes))
    finally:
        ownership.close()
