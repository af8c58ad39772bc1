"""What this host has begun, on disk, before it is begun.

One small file for each workload, a line of JSON for each phase it has come to; the last line
that can be read counts. After a crash every half-made thing has a file that names it:

    adding    made so far is unknown: undo it (who asked never got an answer)
    attached  all is in place
    removing  finish it; also while the datastore is away

The process may die at any time and lose nothing, since what is written is the kernel's then. The
host may stop: so *adding* is synced before the endpoint is stored, meanwhile addresses and link
are made. Without a record, and without an endpoint, the addresses are leaks that are found. Later
lines may be lost, and with them went every link: an *attached* that reads as *adding* is undone,
rightly. A *removing* is synced before anybody is told that the rest will follow.
"""

import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import Collection
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
    moved: bool = False
    """The addresses were there before: the host that it came from may have it still."""


class Journal:
    """The files of one directory; only one process may use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:  # whoever wants to note something is told
            log.error("attach journal: %s", error)
        self._entries = self._read_all()
        self._by_interface = {entry.interface: key for key, entry in self._entries.items()}
        self._by_address = {
            address: key for key, entry in self._entries.items() for address in _in_use(entry)
        }

    @property
    def entries(self) -> list[Entry]:
        """By key."""
        return [self._entries[key] for key in sorted(self._entries)]

    @property
    def unordered(self) -> Collection[Entry]:
        """The same, without the cost of sorting a thousand."""
        return self._entries.values()

    def get(self, key: WorkloadKey) -> Entry | None:
        return self._entries.get(key)

    def at_interface(self, name: str) -> Entry | None:
        """Whose link that is on the host."""
        key = self._by_interface.get(name)
        return None if key is None else self._entries[key]

    def at_address(self, address: str) -> Entry | None:
        """Who is attached with it."""
        key = self._by_address.get(address)
        return None if key is None else self._entries[key]

    def note(self, entry: Entry) -> None:
        """Write down the workload's next phase; outlives this process, and perhaps the host.

        Raises:
            Unavailable: the disk is full or broken; what was there before still counts.
        """
        if self._entries.get(entry.key) == entry:
            return
        try:
            self._append(self._path(entry.key), msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise self._failed(error) from error
        self._unlist(entry.key)
        self._entries[entry.key] = entry
        self._by_interface[entry.interface] = entry.key
        self._by_address |= dict.fromkeys(_in_use(entry), entry.key)

    def sync(self, key: WorkloadKey) -> None:
        """What was noted outlives the host; blocks.

        Raises:
            Unavailable: the disk is broken, or nothing was noted.
        """
        try:
            for path, kind in ((self._path(key), 0), (self._directory, os.O_DIRECTORY)):
                handle = os.open(path, os.O_RDONLY | kind | os.O_CLOEXEC)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise self._failed(error) from error

    def forget(self, key: WorkloadKey) -> None:
        """The workload is gone, and nothing is left of it.

        Not synced: a file that comes back is a removal, which may be repeated.

        Raises:
            Unavailable: the file cannot be removed.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(key))
        except OSError as error:
            raise self._failed(error) from error
        self._unlist(key)

    def _unlist(self, key: WorkloadKey) -> None:
        gone = self._entries.pop(key, None)
        if gone is None:
            return
        for index, names in (
            (self._by_interface, (gone.interface,)),
            (self._by_address, gone.addresses),
        ):
            for name in names:
                if index.get(name) == key:
                    del index[name]

    def _append(self, path: Path, content: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(handle).st_size
            if os.write(handle, content) < len(content):
                os.ftruncate(handle, before)  # half a line would spoil the next
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if not before:
                os.unlink(path)
            raise
        finally:
            os.close(handle)

    def _read_all(self) -> dict[WorkloadKey, Entry]:
        found: dict[WorkloadKey, Entry] = {}
        for path in sorted(self._directory.glob("*.json")):
            try:
                content = path.read_bytes()
                if b"\n" not in content and not _is_whole(content):
                    path.unlink()  # the host stopped before the first line was there
                    continue
                entry = _newest(content)
            except (OSError, msgspec.DecodeError) as error:
                log.error("attach journal: %s is left alone: %s", path, error)
                continue
            found[entry.key] = entry
        return found

    def _path(self, key: WorkloadKey) -> Path:
        """Named by a hash: no text of users becomes a file name."""
        name = hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]
        return self._directory / f"{name}.json"

    def _failed(self, error: OSError) -> Unavailable:
        return Unavailable(f"the attach journal in {self._directory}: {error}")


def _in_use(entry: Entry) -> tuple[str, ...]:
    """Its addresses, while they are not on their way in or out."""
    return entry.addresses if entry.phase == "attached" else ()


def _is_whole(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError:
        return False
    return True


def _newest(content: bytes) -> Entry:
    """The last line that is whole.

    Raises:
        msgspec.DecodeError: none is.
    """
    lines = content.splitlines()
    for line in reversed(lines[1:]):
        if _is_whole(line):
            return msgspec.json.decode(line, type=Entry)
    return msgspec.json.decode(lines[0], type=Entry)
