"""Removals that no agent was there for: requests that plugins have written down.

One file each, in a directory that nobody else may write. They are worked off, oldest first, at
start and before anything new is attached.
"""

import logging
import os
import stat
from pathlib import Path

from tortie.attach.requests import REQUEST_MAX_BYTES, Cni, decode_request
from tortie.lib.errors import InvalidInput

log = logging.getLogger(__name__)


def spooled(directory: Path) -> list[Path]:
    """Requests that wait there, oldest first; none where others may write."""
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        return []
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & 0o022:
        log.error("%s is not ours alone; nothing in it is read", directory)
        return []
    with os.scandir(directory) as entries:
        names = [(entry.stat().st_mtime_ns, entry.name) for entry in entries
                 if entry.name.endswith(".json") and entry.is_file(follow_symlinks=False)
                 and entry.stat().st_size <= REQUEST_MAX_BYTES]  # fmt: skip
    return [directory / name for _, name in sorted(names)]


def read_removal(path: Path) -> Cni:
    """
    Raises:
        InvalidInput: it is none.
        OSError: it cannot be read now.
    """
    request = decode_request(path.read_bytes())
    if not isinstance(request, Cni) or request.command != "DEL":
        raise InvalidInput("it is no DEL")
    return request
