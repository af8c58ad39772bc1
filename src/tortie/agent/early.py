"""Closes this host's workload interfaces before the agent knows who may pass.

At boot `tortie node close` does it, from a unit that comes before the network;
the agent does it again first thing, for hosts that have no such unit and for
tables that somebody took away while no agent ran. Where our own tables are in
force nothing is done: they know better. The agent's first transaction deletes
the early tables (`dataplane/driver/nftables.py`).

The tables are made through the keeper's socket: where the kernel has owned
tables, a firewall service that starts with `flush ruleset` passes them by.
"""

import contextlib
import logging
import os
from enum import Enum
from pathlib import Path

from tortie.agent import remembered
from tortie.agent.config import Local, resolve
from tortie.agent.ownership import Ownership, obtain
from tortie.agent.parameters import workload_prefixes
from tortie.dataplane.driver import nftables
from tortie.dataplane.rules.early import add_early_tables
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.nft.connection import Nft, supports_owner_tables
from tortie.kernel.nft.constants import TableFlag
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelBusy

log = logging.getLogger(__name__)

ATTEMPTS = 20
"""Each other one fails only if somebody else changes the ruleset in between."""


class Outcome(Enum):
    CLOSED = "closed"
    ENFORCED = "enforced"
    """Our own tables are in force; nothing was changed."""


def interface_prefix(local: Local, state_directory: Path) -> str:
    """Of workload interfaces, as far as this machine knows it without its datastore; or several,
    see `parameters.workload_prefixes`."""
    config = resolve(local)
    prefix: str = config["InterfacePrefix"]
    if config.origin("InterfacePrefix") != "default":
        return prefix
    known = remembered.recall(state_directory)
    return known.interface_prefix if known else prefix


async def close_workloads(run_directory: Path, prefix: str) -> Outcome:
    """Close every interface whose name begins with `prefix`, or with one of several (see
    `parameters.workload_prefixes`), unless policy is in force.

    Raises:
        AlreadyExists: an agent runs here, and sees to it.
        KernelRefused: no permission, or no nf_tables.
        KernelBusy: others change the ruleset without pause.
    """
    ownership = obtain(run_directory)
    try:
        return await _close(ownership, prefix)
    finally:
        ownership.close()


async def _close(ownership: Ownership, prefix: str) -> Outcome:
    # A duplicate: the right to the original ends with `ownership`.
    nft = Nft(NetlinkSocket.adopt(os.dup(ownership.netlink.fileno())))
    flags = nftables.OWNED if supports_owner_tables() else TableFlag(0)
    try:
        for _ in range(ATTEMPTS):
            generation = await nft.generation()
            if await _in_force(nft):
                return Outcome.ENFORCED
            transaction = Transaction()
            add_early_tables(transaction, workload_prefixes(prefix), flags)
            # Refused if an agent's tables have come since we looked.
            with contextlib.suppress(KernelBusy):
                await nft.commit(transaction, generation=generation)
                log.info("workload interfaces are closed until their policy is known")
                return Outcome.CLOSED
        raise KernelBusy("the ruleset changes faster than workload interfaces can be closed")
    finally:
        nft.close()


async def _in_force(nft: Nft) -> bool:
    return any(
        table.table_name == nftables.INET and not table.flags & TableFlag.DORMANT
        for table in await nft.tables()
    )
