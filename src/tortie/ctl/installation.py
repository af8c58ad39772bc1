"""Files of an installation: planned, compared, written, listed, taken away again.

What was written is listed in `/var/lib/tortie/installed.json`, settings with a
digest of what we wrote: removing takes what is ours, and leaves settings that
somebody has changed. Each file is replaced whole or not at all; the list comes
before the first of them, so that nothing is ever there which it does not know.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

LIST = "/var/lib/tortie/installed.json"


class File(NamedTuple):
    text: str
    mode: int = 0o644
    is_settings: bool = False
    """Written only where there is none: afterwards it is the user's."""
    is_link: bool = False
    """A symbolic link to `text`."""


class Installed(msgspec.Struct, frozen=True):
    files: Mapping[str, str]
    """Path on the host → digest of what we wrote, if it is settings; else empty."""


class Change(NamedTuple):
    path: str
    file: File
    is_new: bool


def changes(root: Path, wanted: Mapping[str, File]) -> list[Change]:
    """What differs below `root`."""
    found = []
    for path, file in wanted.items():
        there = _read(below(root, path))
        if there == file.text or (there is not None and file.is_settings):
            continue
        found.append(Change(path, file, there is None))
    return found


def write(root: Path, wanted: Mapping[str, File]) -> list[Change]:
    """Make it so, and remove what an earlier version had and this one has not.

    Returns:
        What was different.

    Raises:
        OSError: naming the file.
    """
    before = installed(root).files
    different = changes(root, wanted)
    new = {change.path for change in different}
    listed = {
        path: before.get(path, _digest(file.text)) if file.is_settings else ""
        for path, file in wanted.items()
        if not file.is_settings or path in before or path in new
    }
    stale = before.keys() - wanted.keys()
    if listed != before:
        _write_list(root, Installed({**before, **listed}))
    for change in different:
        _replace(below(root, change.path), change.file)
    for path in stale:
        _remove(root, path)
    if stale:
        _write_list(root, Installed(listed))
    return different


def installed(root: Path) -> Installed:
    """Nothing, if there is no list or it cannot be read as one."""
    try:
        return msgspec.json.decode(below(root, LIST).read_bytes(), type=Installed)
    except (OSError, msgspec.DecodeError):
        return Installed({})


def remove(root: Path) -> tuple[list[str], list[str]]:
    """Remove what was installed, then empty directories, then the list.

    Returns:
        What is gone, and what stays because somebody changed it.
    """
    gone, kept = [], []
    for path, digest in installed(root).files.items():
        there = _read(below(root, path))
        if there is None:
            continue
        if digest in ("", _digest(there)):
            _remove(root, path)
            gone.append(path)
        else:
            kept.append(path)
    below(root, LIST).unlink(missing_ok=True)
    for path in (*gone, LIST):
        for parent in below(root, path).parents:
            if parent == root or not parent.is_relative_to(root) or not _is_ours(parent):
                break
            with contextlib.suppress(OSError):
                parent.rmdir()
    return gone, kept


def _is_ours(directory: Path) -> bool:
    """Only directories that nobody else has a use for."""
    return directory.name in ("tortie", "calico") or directory.name.endswith(".wants")


def below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _write_list(root: Path, listed: Installed) -> None:
    _replace(below(root, LIST), File(msgspec.json.encode(listed, order="sorted").decode(), 0o600))


def _remove(root: Path, path: str) -> None:
    below(root, path).unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    """Its text, or where a link leads; None if nothing is there."""
    if path.is_symlink():
        return os.readlink(path)
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None


def _replace(path: Path, file: File) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    candidate = path.with_name(f".{path.name}.new")
    candidate.unlink(missing_ok=True)
    if file.is_link:
        candidate.symlink_to(file.text)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(candidate, flags, file.mode)
        with open(descriptor, "w") as out:
            os.fchmod(descriptor, file.mode)  # whatever the umask is
            out.write(file.text)
            out.flush()
            os.fsync(descriptor)
    os.replace(candidate, path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
