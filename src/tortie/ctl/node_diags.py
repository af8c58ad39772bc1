"""`tortie node diags`: what helps to find a fault on this host, in one archive.

Each part is best effort: what fails, or takes too long, is told in the archive
itself. Secrets are left out (`redaction`): keys and the environment have names
there and no values, and what is known to be a secret is hidden wherever it
turns up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tortie.agent.wiring import SECRETS_ENVIRONMENT
from tortie.bgp.bird import Bird
from tortie.bgp.manager import SECRETS_DIRECTORY
from tortie.ctl import access, doctor
from tortie.ctl.cluster_diags import redactor_of, versions, write_archive
from tortie.ctl.diagnosis import Host
from tortie.ctl.grammar import Given
from tortie.ctl.redaction import HIDDEN, Redactor
from tortie.ctl.screen import Screen
from tortie.lib.errors import TortieError

COMMANDS = {
    "links.txt": ("ip", "-d", "-s", "link"),
    "addresses.txt": ("ip", "address"),
    "routes-4.txt": ("ip", "-4", "route", "show", "table", "all"),
    "routes-6.txt": ("ip", "-6", "route", "show", "table", "all"),
    "rules-4.txt": ("ip", "-4", "rule"),
    "rules-6.txt": ("ip", "-6", "rule"),
    "neighbours.txt": ("ip", "neighbour"),
    "namespaces.txt": ("ip", "netns"),
    "queues.txt": ("tc", "-s", "qdisc"),
    "nftables.txt": ("nft", "-a", "list", "ruleset"),
    "iptables.txt": ("iptables-save",),
    "sockets.txt": ("ss", "-tulpn"),
    "processes.txt": ("ps", "-eo", "pid,ppid,etime,rss,comm"),
    "modules.txt": ("lsmod",),
    "sysctls.txt": ("sysctl", "-a", "--pattern", r"^net\.(ipv4|ipv6|netfilter)"),
    "kernel-log.txt": ("dmesg", "--level=emerg,alert,crit,err,warn"),
    "units.txt": ("systemctl", "status", "--no-pager", "--full", "tortie-*", "bird", "docker"),
    "unit-files.txt": ("systemctl", "cat", "--no-pager", "tortie-*"),
    "journal.txt": ("journalctl", "--no-pager", "-n", "2000", "-u", "tortie*"),
}
"""Part → command; without arguments that would show secrets."""

BIRD_QUESTIONS = ("show status", "show protocols all", "show route", "show memory")

FILES = (
    "/etc/calico", "/etc/cni/net.d", "/var/lib/calico", "/var/lib/tortie", "/run/tortie/bird",
    "/proc/mounts", "/proc/meminfo", "/proc/loadavg", "/etc/os-release",
)  # fmt: skip
"""Files, and the files of directories."""

PATIENCE_SECONDS = 10
PART_MAX_BYTES = 4 * 1024 * 1024
WORKERS = 4

_KEYS = re.compile(r"(?i)\.(key|pem|p12|pfx|crt|cert|db|db-wal|db-shm)$|kubeconfig")
"""Keys, and what is no text."""


def main(given: Given, screen: Screen) -> int:
    name = time.strftime("tortie-diags-%Y%m%dT%H%M%SZ", time.gmtime())
    logs = Path(given.text("log-dir", "/var/log/calico"))
    host = doctor.host_of(given)
    work: dict[str, Callable[[], str]] = {
        "versions.txt": versions,
        "environment.txt": _environment,
        "doctor.json": lambda: _examined(host),
        "bird.txt": lambda: _bird(host),
        **{part: _of_command(command) for part, command in COMMANDS.items()},
    }
    progress = screen.progress("collecting", len(work))
    parts: dict[str, str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for part, text in zip(work, pool.map(_attempt, work.values()), strict=True):
            parts[part] = text
            progress.step()
    progress.wipe()
    for path in (*FILES, logs):
        parts |= dict(_files(Path(path)))
    redactor = redactor_of(host.environment, access.config_file(given))
    _learn(redactor, host)
    path = Path(tempfile.mkdtemp(prefix="tortie-")) / f"{name}.tar.gz"
    write_archive(path, parts, redactor)
    screen.print(f"Diags saved to {path}")
    return 0


def _learn(redactor: Redactor, host: Host) -> None:
    """Where this host keeps secrets."""
    for place in (*FILES, host.environment_file, host.felix_config):
        for path in _paths(Path(place)):
            redactor.learn_file(path)
            if _KEYS.search(path.name):
                redactor.learn_keys((path,))
    passwords = Path(host.environment.get(SECRETS_ENVIRONMENT) or SECRETS_DIRECTORY)
    redactor.learn_keys(path for path in passwords.rglob("*") if path.is_file())


def _attempt(collect: Callable[[], str]) -> str:
    try:
        return collect()
    except Exception as error:  # noqa: BLE001 - one part must not cost the others
        return f"{type(error).__name__}: {error}\n"


def _examined(host: Host) -> str:
    return json.dumps(doctor.as_json(list(doctor.examine(host))), indent=2, ensure_ascii=False)


def _bird(host: Host) -> str:
    async def ask() -> str:
        bird = Bird(host.run_directory / "bird", starts=False)
        parts = []
        for question in BIRD_QUESTIONS:
            lines = "\n".join(text for _, text in await bird.ask(question))
            parts.append(f"# {question}\n{lines}\n")
        return "\n".join(parts)

    try:
        return asyncio.run(ask())
    except TortieError as error:
        return f"{error}\n"


def _of_command(command: tuple[str, ...]) -> Callable[[], str]:
    return lambda: _output(command)


def _output(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed\n"
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list
            command, capture_output=True, timeout=PATIENCE_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}\n"
    text = done.stdout[-PART_MAX_BYTES:].decode(errors="replace")
    problem = done.stderr.decode(errors="replace") if done.returncode else ""
    return f"{text}{problem}"


def _paths(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(one for one in path.iterdir() if one.is_file())
    return [path]


def _files(path: Path) -> Iterator[tuple[str, str]]:
    """Files and the files of a directory, their ends if they are long; no keys."""
    try:
        paths = _paths(path)
    except OSError as error:
        paths = []
        yield f"files{path}", f"{error}\n"
    for one in paths:
        if _KEYS.search(one.name):
            yield f"files{one}", f"{HIDDEN}\n"
            continue
        try:
            with one.open("rb") as file:
                with contextlib.suppress(OSError):  # /proc cannot
                    file.seek(max(0, one.stat().st_size - PART_MAX_BYTES))
                yield f"files{one}", file.read(PART_MAX_BYTES).decode(errors="replace")
        except OSError as error:
            yield f"files{one}", f"{error}\n"


def _environment() -> str:
    """Names only: a value may be a password in a URL."""
    wanted = re.compile(r"(FELIX|ETCD|CALICO|TORTIE|DATASTORE)_?\w*|NODENAME|IP6?|AS|KUBECONFIG")
    return "".join(f"{name} is set\n" for name in sorted(os.environ) if wanted.fullmatch(name))
