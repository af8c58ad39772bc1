"""`tortie node diags`: what helps to find a fault on this host, in one archive.

Each part is best effort: what fails, or takes too long, is told in the archive itself. Secrets
are left out: of configuration files, of keys, of the environment everything but names.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tortie.ctl.cluster_diags import HIDDEN, redacted_text, versions
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.lib.errors import InvalidInput

COMMANDS = {
    "links.txt": ("ip", "-d", "-s", "link"),
    "addresses.txt": ("ip", "address"),
    "routes-4.txt": ("ip", "-4", "route", "show", "table", "all"),
    "routes-6.txt": ("ip", "-6", "route", "show", "table", "all"),
    "rules-4.txt": ("ip", "-4", "rule"),
    "rules-6.txt": ("ip", "-6", "rule"),
    "neighbours.txt": ("ip", "neighbour"),
    "nftables.txt": ("nft", "list", "ruleset"),
    "iptables.txt": ("iptables-save",),
    "sockets.txt": ("ss", "-tulpn"),
    "processes.txt": ("ps", "-eo", "pid,ppid,etime,rss,comm"),
    "kernel-log.txt": ("dmesg", "--level=emerg,alert,crit,err,warn"),
    "journal.txt": ("journalctl", "--no-pager", "-n", "2000", "-u", "tortie*"),
}
"""Part → command; without arguments that would show secrets."""

FILES = ("/etc/calico", "/etc/cni/net.d", "/proc/sys/net/ipv4/ip_forward", "/proc/mounts")

PATIENCE_SECONDS = 10
PART_MAX_BYTES = 4 * 1024 * 1024


def main(given: Given, screen: Screen) -> int:
    name = time.strftime("tortie-diags-%Y%m%dT%H%M%SZ", time.gmtime())
    logs = Path(given.text("log-dir", "/var/log/calico"))
    progress = screen.progress("collecting", len(COMMANDS))
    parts: dict[str, str] = {"versions.txt": versions(), "environment.txt": _environment()}
    for part, command in COMMANDS.items():
        parts[part] = _output(command)
        progress.step()
    progress.wipe()
    for path in (*FILES, logs):
        parts |= dict(_files(Path(path)))
    path = Path(tempfile.mkdtemp(prefix="tortie-")) / f"{name}.tar.gz"
    try:
        with tarfile.open(path, "x:gz") as archive:
            for part, text in sorted(parts.items()):
                raw = redacted_text(text).encode(errors="replace")
                entry = tarfile.TarInfo(f"{name}/{part}")
                entry.size, entry.mtime, entry.mode = len(raw), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(raw))
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error}") from None
    screen.print(f"Diags saved to {path}")
    return 0


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


def _files(path: Path) -> Iterator[tuple[str, str]]:
    """Files and the files of a directory, their ends if they are long; no keys."""
    try:
        paths = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    except OSError as error:
        paths = []
        yield f"files{path}", f"{error}\n"
    for one in paths:
        if re.search(r"(?i)\.(key|pem|p12)$|kubeconfig", one.name):
            yield f"files{one}", f"{HIDDEN}\n"
            continue
        try:
            with one.open("rb") as file:
                file.seek(max(0, one.stat().st_size - PART_MAX_BYTES))
                yield f"files{one}", file.read(PART_MAX_BYTES).decode(errors="replace")
        except OSError as error:
            yield f"files{one}", f"{error}\n"


def _environment() -> str:
    """Names only: a value may be a password in a URL."""
    wanted = re.compile(r"(FELIX|ETCD|CALICO|TORTIE|DATASTORE)_?\w*|NODENAME|IP6?|AS|KUBECONFIG")
    return "".join(f"{name} is set\n" for name in sorted(os.environ) if wanted.fullmatch(name))
