"""Packets of ours through Docker's own firewall rules.

A dockerd that finds forwarding switched off switches it on and drops everything in FORWARD that
its own networks do not need; an accept in our tables does not undo a drop in another. Docker
keeps one chain for others' rules, DOCKER-USER. Where the policy is DROP, two rules there let
through what our interfaces send and get. Policy stays ours: our tables are asked in any case.

The agent switches forwarding on before Docker starts (`tortie node close --forward`), so that
none of this is needed on most hosts.
"""

import asyncio
import logging
import shutil
from collections.abc import Sequence

log = logging.getLogger(__name__)

CHAIN = "DOCKER-USER"
TOOLS = ("iptables", "ip6tables")
SECONDS = 10.0


async def let_through(interface_prefix: str) -> list[str]:
    """Add what is missing; returns the rules that were added, as commands.

    Args:
        interface_prefix: of workload interfaces on this host.
    """
    added = []
    for tool in TOOLS:
        path = shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")
        if path is None:
            continue
        code, policy = await _run([path, "-w", "-S", "FORWARD"])
        has_chain = (await _run([path, "-w", "-S", CHAIN]))[0] == 0
        if code or "-P FORWARD DROP" not in policy.splitlines() or not has_chain:
            continue
        for direction in ("-i", "-o"):
            rule = [CHAIN, direction, f"{interface_prefix}+", "-j", "ACCEPT"]
            if (await _run([path, "-w", "-C", *rule]))[0] == 0:
                continue
            code, output = await _run([path, "-w", "-I", *rule])
            command = " ".join([tool, "-I", *rule])
            if code:
                log.warning("Docker's rules drop our packets, and %s fails: %s", command, output)
            else:
                log.info("Docker's rules drop what others forward; added: %s", command)
                added.append(command)
    return added


async def _run(command: Sequence[str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, f"no end after {SECONDS:g} s"
    assert process.returncode is not None, "it ended"
    return process.returncode, output.decode(errors="replace").strip()
