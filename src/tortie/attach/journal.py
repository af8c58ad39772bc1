"""What this host has begun, on disk, before it is begun.

One small JSON file for each workload, replaced atomically and synced, so that
after a crash every half-made thing has a file that names it:

    adding    made so far is unknown: undo it (who asked never got an answer)
    attached  all is in place
    removing  finish it; also while the datastore is away

Calls block for a sync of the disk; the attacher makes them in a thread.
"""

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Literal

import msgspec

from tortie.attach.requests import Device, WorkloadKey
from tortie.lib.errors import Unavailable

log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One workload of this host."""

    key: WorkloadKey
    phase: Literal["adding", "attached", "removing"]
    handle_id: str
    endpoint_name: str
    """Of its WorkloadEndpoint."""
    interface: str
    inside: str
    netns: str
    addresses: tuple[str, ...] = ()
    mac: str = ""
    revision: int = 0
    container_id: str = ""
    network: str = ""
    """Name of the CNI network."""
    ipam: bool = True
    """False: the addresses are somebody else's to release."""
    default_routes: bool = True
    device: Device = "veth"
    keep_addresses: bool = False
    """Do not release them when undone or removed: they were there before us, or stay."""


class Journal:
    """The files of one directory; only one process may use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._entries = self._read_all()

    @property
    def entries(self) -> list[Entry]:
        """By key."""
        return [self._entries[key] for key in sorted(self._entries)]

    def get(self, key: WorkloadKey) -> Entry | None:
        return self._entries.get(key)

    def write(self, entry: Entry) -> None:
        """On disk when it returns.

        Raises:
            Unavailable: the disk is full or broken; what was there before still is.
        """
        try:
            self._replace(self._path(entry.key), msgspec.json.encode(entry))
        except OSError as error:
            raise Unavailable(f"the attach journal in {self._directory}: {error}") from error
        self._entries[entry.key] = entry

    def forget(self, key: WorkloadKey) -> None:
        """The workload is gone, and nothing is left of it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))
        self._sync_directory()
        self._entries.pop(key, None)

    def _replace(self, path: Path, content: bytes) -> None:
        temporary = path.with_suffix(".new")
        with open(temporary, "wb", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._sync_directory()

    def _read_all(self) -> dict[WorkloadKey, Entry]:
        found: dict[WorkloadKey, Entry] = {}
        for unfinished in self._directory.glob("*.new"):
            unfinished.unlink()
        for path in sorted(self._directory.glob("*.json")):
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=Entry)
            except (OSError, msgspec.DecodeError) as error:
                log.error("attach journal: %s is left alone: %s", path, error)
                continue
            found[entry.key] = entry
        return found

    def _path(self, key: WorkloadKey) -> Path:
        """Named by a hash: no text of users becomes a file name."""
        name = hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]
        return self._directory / f"{name}.json"

    def _sync_directory(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
