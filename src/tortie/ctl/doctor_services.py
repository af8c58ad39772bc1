"""Checks of `tortie doctor`: units, the agent, BIRD, and what they left lying about."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tortie.agent import keeper
from tortie.agent.routing import Routing
from tortie.bgp import status
from tortie.bgp.bird import Bird
from tortie.ctl import installation, node_install, systemd
from tortie.ctl.diagnosis import Finding, Host, good, problem, unknown, warning
from tortie.ctl.units import UNITS
from tortie.lib.errors import TortieError, Unavailable

BIRD_AT_LEAST = (2, 0)
BIRD_PATIENCE_SECONDS = 5
HEALTH_PATIENCE_SECONDS = 5.0
BEHIND_REVISIONS = 1000
"""A busy cluster is always a little ahead of its hosts."""

_LOG = "journalctl -u tortie-agent shows its log"


def units(_: Host) -> Finding:
    """Installed, as this version has them, and running."""
    if not systemd.is_running():
        return unknown("systemd does not run here: what starts the agent is not known")
    root = Path("/")
    if not installation.installed(root).files:
        return warning("no units are installed", "tortie node install")
    changed = installation.changes(root, node_install.files(node_install.program()))
    if changed:
        names = ", ".join(Path(change.path).name for change in changed)
        return problem(f"not as this version has them: {names}", "tortie node install")
    bad = {}
    for unit in UNITS:
        if unit.wanted_by and systemd.state(unit.wanted_by) in ("active", "activating"):
            state = systemd.state(unit.name)
            # A unit whose condition is not met here never ran, and need not.
            is_idle = state == "inactive" and not systemd.is_wanted(unit.name)
            if state not in ("active", "activating") and not is_idle:
                bad[unit.name] = state
    if bad:
        return problem(
            ", ".join(f"{name} is {state}" for name, state in bad.items()),
            f"systemctl start {' '.join(bad)}; journalctl -u NAME says why they ended",
        )
    return good("installed and running")


def agent(host: Host) -> Finding:
    """A process that runs, and holds the right to our tables."""
    pid = _agent_pid(host)
    if pid is None:
        return problem("no agent runs here", f"systemctl start tortie-agent; {_LOG}")
    answer = _ask_keeper(host.run_directory)
    if answer is None:
        return problem(
            f"the agent runs (process {pid}), and no keeper: at its end its tables are anyone's",
            "systemctl start tortie-keeper, then restart the agent",
        )
    if not answer.startswith(b"B"):
        return problem(
            f"process {pid} does not hold the socket that owns the tables",
            f"systemctl restart tortie-agent; {_LOG}",
        )
    return good(f"the agent runs, process {pid}")


def health(host: Host) -> Finding:
    """What its readiness says."""
    if not host.config["HealthEnabled"]:
        return unknown(
            "health is not served", "FELIX_HEALTHENABLED=true in calico.env, and restart the agent"
        )
    try:
        code, text = _ask_health(host, "/readiness")
    except OSError as error:
        return problem(
            f"the agent's health does not answer on port {host.config['HealthPort']}: {error}",
            f"systemctl restart tortie-agent; {_LOG}",
        )
    said = "; ".join(text.splitlines())
    if code != 200:
        return problem(f"not ready: {said}", _LOG)
    return good(said)


def enforced(host: Host) -> Finding:
    """Whether what is stored has arrived in the kernel."""
    cluster = host.cluster
    if isinstance(cluster, TortieError) or not host.config["HealthEnabled"]:
        return unknown("needs the datastore, and the agent's health")
    try:
        revision = int(_ask_health(host, "/enforced")[1])
    except (OSError, ValueError) as error:
        return unknown(f"the agent does not say: {error}")
    behind = cluster.revision - revision
    if behind > BEHIND_REVISIONS:
        # Keys that concern no agent count too, so this is a hint and no more.
        return warning(f"{behind} revisions behind the datastore", _LOG)
    return good(f"enforced up to revision {revision} of {cluster.revision}")


def bird(host: Host) -> Finding:
    """There, recent enough, and not twice."""
    if host.routing is not Routing.BGP:
        return good(f"not needed: routing is {host.routing.value}")
    path = node_install.program().bird
    try:
        done = subprocess.run(  # noqa: S603 - found in PATH
            (path, "--version"), capture_output=True, text=True, check=False,
            timeout=BIRD_PATIENCE_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return problem("BIRD is not installed", "apt-get install bird2")
    version = re.search(r"(\d+)\.(\d+)(\.\d+)*", done.stdout + done.stderr)
    if version is None or (int(version[1]), int(version[2])) < BIRD_AT_LEAST:
        return problem(f"{path} is not BIRD 2", "apt-get install bird2")
    if systemd.is_running() and systemd.state("bird.service") == "active":
        return problem(
            "another BIRD runs beside ours (bird.service): both change routes",
            "systemctl disable --now bird",
        )
    return good(f"BIRD {version[0]}")


def sessions(host: Host) -> Finding:
    if host.routing is not Routing.BGP:
        return good(f"not needed: routing is {host.routing.value}")
    try:
        lines = asyncio.run(Bird(host.run_directory / "bird").ask("show protocols all"))
    except Unavailable as error:
        return problem(
            f"BIRD does not answer: {error}", "systemctl status tortie-bird; journalctl -u "
            "tortie-bird",
        )  # fmt: skip
    found = status.peers(lines)
    down = [peer for peer in found if not peer.is_up]
    if down:
        return problem(
            "; ".join(f"{peer.address}: {peer.info}" for peer in down[:5]),
            "tortie node status shows all; port 179 must be open between the hosts",
        )
    if not found:
        return warning(
            "no BGP sessions: this host is alone", "tortie get nodes; tortie get bgppeers"
        )
    return good(f"{len(found)} BGP sessions are established")


def left_over(host: Host) -> Finding:
    """What a crash may leave: harmless, and misleading."""
    found = list(_left_over(host))
    if found:
        return warning(
            "; ".join(found), f"remove it, or let the agent: {'systemctl restart tortie-agent'}"
        )
    return good("nothing is left over")


def _left_over(host: Host) -> Iterator[str]:
    attach = host.run_directory / "attach.sock"
    if attach.exists() and not _answers(attach):
        yield f"{attach}: nobody answers"
    pid_file = host.run_directory / "agent.pid"
    if pid_file.exists() and _agent_pid(host) is None:
        yield f"{pid_file}: that process is gone"
    waiting = host.state_directory / "cni"
    removals = list(waiting.glob("*")) if waiting.is_dir() else []
    if removals and _agent_pid(host) is None:
        yield f"{waiting}: {len(removals)} removals of containers wait for an agent"


def _agent_pid(host: Host) -> int | None:
    try:
        pid = int((host.run_directory / "agent.pid").read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def _ask_keeper(run_directory: Path) -> bytes | None:
    """`K` and it was free, `B` and the process that holds it; None: nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(HEALTH_PATIENCE_SECONDS)
        try:
            asking.connect(str(run_directory / keeper.SOCKET_NAME))
            # The descriptor that may come with it is not taken, so the kernel closes it.
            return asking.recv(32)
        except OSError:
            return None


def _answers(path: Path) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as asking:
            asking.settimeout(HEALTH_PATIENCE_SECONDS)
            try:
                asking.connect(str(path))
            except OSError:
                continue
            return True
    return False


def _ask_health(host: Host, path: str) -> tuple[int, str]:
    asking = http.client.HTTPConnection(
        host.config["HealthHost"], host.config["HealthPort"], timeout=HEALTH_PATIENCE_SECONDS
    )
    try:
        asking.request("GET", path)
        answer = asking.getresponse()
        return answer.status, answer.read(65536).decode(errors="replace").strip()
    except http.client.HTTPException as error:
        raise OSError(str(error) or type(error).__name__) from error
    finally:
        asking.close()
