"""`tortie node close`: no packet from or to a workload until the agent knows which may pass.

A unit runs it at boot, before the network is up. See `agent/early.py`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tortie.agent.config import FELIX_CFG, read_local
from tortie.agent.early import Outcome, close_workloads, interface_prefix
from tortie.agent.parameters import workload_prefixes
from tortie.ctl.grammar import Given
from tortie.ctl.node import RUN_DIRECTORY
from tortie.ctl.screen import Screen
from tortie.kernel import sysctl
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound

STATE_DIRECTORY = Path("/var/lib/tortie")


def main(given: Given, screen: Screen) -> int:
    if os.geteuid() != 0:
        raise InvalidInput("tortie node close needs root")
    try:
        prefix, outcome = close(given)
    except AlreadyExists:
        screen.print("an agent runs here, and has seen to it")
    else:
        closed = " and ".join(f"{one}*" for one in workload_prefixes(prefix))
        screen.print(
            f"interfaces {closed} are closed until the agent knows their policy"
            if outcome is Outcome.CLOSED
            else "policy is in force; nothing to do"
        )
    if given.has("forward"):
        _forward()
    return 0


def close(given: Given) -> tuple[str, Outcome]:
    """The prefix of the interfaces, or several with commas between, and what became of them.

    Raises:
        AlreadyExists: an agent runs here.
    """
    local = read_local(os.environ, Path(given.text("felix-config", str(FELIX_CFG))))
    prefix = interface_prefix(local, state_directory(given))
    return prefix, asyncio.run(close_workloads(run_directory(given), prefix))


def run_directory(given: Given) -> Path:
    """The agent's; in a lab's host `tortie lab exec` says which that is."""
    named = given.text("run-directory") or os.environ.get("TORTIE_RUN_DIRECTORY")
    return Path(named or RUN_DIRECTORY)


def state_directory(given: Given) -> Path:
    named = given.text("state-directory") or os.environ.get("TORTIE_STATE_DIRECTORY")
    return Path(named or STATE_DIRECTORY)


def _forward() -> None:
    """Behind closed interfaces: Docker, finding it off, would switch it on and drop the rest."""
    sysctl.set_global("ipv4/ip_forward", 1)
    try:
        sysctl.set_global("ipv6/conf/all/forwarding", 1)
    except NotFound:
        return  # a kernel without IPv6
