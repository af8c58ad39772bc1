"""`tortie node uninstall`: this host is no node any more.

Without tables workloads would be open, so while there are any this is refused,
unless all that is in the kernel is to stay (`--keep-policy`: packets go on as
policy has it, until somebody installs again) or the workloads are to be cut off
(`--force`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from pathlib import Path

from tortie.agent import keeper, remembered, removal
from tortie.agent.config import FELIX_CFG, read_local, resolve
from tortie.agent.early import interface_prefix
from tortie.bgp.bird import Bird
from tortie.ctl import installation, systemd
from tortie.ctl.grammar import Given
from tortie.ctl.node import RUN_DIRECTORY
from tortie.ctl.node_close import STATE_DIRECTORY
from tortie.ctl.screen import Screen
from tortie.ctl.units import UNITS
from tortie.lib.errors import InvalidInput, TortieError, Unavailable

NODENAME = Path("/var/lib/calico/nodename")


def main(given: Given, screen: Screen) -> int:
    root = Path(given.text("root", "/"))
    listed = installation.installed(root).files
    if given.has("dry-run"):
        for path in listed:
            screen.print(f"would remove {path}")
        return 0
    if root != Path("/"):
        _remove_files(root, screen)
        return 0
    if os.geteuid() != 0:
        raise InvalidInput("tortie node uninstall needs root; --root DIRECTORY is for elsewhere")
    prefix = interface_prefix(read_local(os.environ, FELIX_CFG), STATE_DIRECTORY)
    keeps = given.has("keep-policy")
    name = _name()
    if not keeps:
        _check_workloads(prefix, force=given.has("force"))
    runs = systemd.is_running()
    if runs:
        _stop("tortie-agent.service", "tortie-bird.path")
    if not keeps:
        _empty_kernel(prefix, screen)
    if runs:
        _stop(*(unit.name for unit in reversed(UNITS)))
    _remove_files(root, screen)
    if runs:
        systemd.systemctl("daemon-reload")
    if not keeps:
        _end_keeper()
        _remove_directories()
        screen.print("IPv4 and IPv6 are still forwarded: net.ipv4.ip_forward is as it was with us")
    screen.print(f"this host's Node is still in the datastore: tortie delete node {name}")
    return 0


def _check_workloads(prefix: str, *, force: bool) -> None:
    links = [link.name for link in removal.workload_links(prefix)]
    if links and not force:
        raise InvalidInput(
            f"{len(links)} workloads are here ({', '.join(links[:3])}{', …' * (len(links) > 3)}): "
            "remove them first; or --keep-policy leaves rules and routes in the kernel, and "
            "packets go on; or --force takes the workloads off the network"
        )


def _empty_kernel(prefix: str, screen: Screen) -> None:
    with contextlib.suppress(Unavailable):  # it does not run: there is nothing to withdraw
        asyncio.run(Bird(RUN_DIRECTORY / "bird", starts=False).retire())
    known = remembered.recall(STATE_DIRECTORY)
    protocol = known.route_protocol if known else resolve(read_local({}))["DeviceRouteProtocol"]
    removed = asyncio.run(removal.remove_state(RUN_DIRECTORY, prefix, protocol))
    screen.print(f"removed {removed.tables} nftables tables and {removed.routes} routes")


def _stop(*units: str) -> None:
    """Those that are there; order matters little, nothing of them carries packets."""
    with contextlib.suppress(TortieError):  # not loaded
        systemd.systemctl("stop", *units)
    with contextlib.suppress(TortieError):
        systemd.systemctl("reset-failed", *units)


def _remove_files(root: Path, screen: Screen) -> None:
    gone, kept = installation.remove(root)
    for path in gone:
        screen.print(f"removed {path}")
    for path in kept:
        screen.print(f"kept {path}: it was changed since")


def _end_keeper() -> None:
    """One that an agent started by itself: no unit stops it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        try:
            asking.connect(str(RUN_DIRECTORY / keeper.SOCKET_NAME))
        except OSError:
            return
        credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        os.kill(int.from_bytes(credentials[:4], "little"), signal.SIGTERM)


def _remove_directories() -> None:
    """State of ours; a lab of this machine keeps its own below the same roof."""
    shutil.rmtree(STATE_DIRECTORY, ignore_errors=True)
    NODENAME.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        NODENAME.parent.rmdir()
    with contextlib.suppress(OSError):
        for path in RUN_DIRECTORY.iterdir():
            if path.name == "labs":
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        RUN_DIRECTORY.rmdir()


def _name() -> str:
    with contextlib.suppress(OSError):
        return NODENAME.read_text().strip()
    return socket.gethostname().lower()
