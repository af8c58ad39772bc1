"""Removals that have been promised and could not be done yet: requests on disk.

One file each, in a directory that nobody else may write. Plugins write what no agent was there
for; the agent what IPAM alone was asked for while the datastore was away or locked. (A removal
by the main plugin has the attach journal.) They are worked off, oldest first, at start, before
anything new is attached, and again and again while one has to wait.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from tortie.attach.cni.failure import CNIFailure
from tortie.attach.requests import REQUEST_MAX_BYTES, Cni, decode_request
from tortie.attach.turns import in_thread
from tortie.lib.backoff import Backoff
from tortie.lib.errors import InvalidInput, TortieError, Unavailable
from tortie.lib.files import replace_file

WRITING_SECONDS = 600.0
"""More than a plugin takes to write a request down, on the slowest disk."""

log = logging.getLogger(__name__)

PAUSE_SECONDS = (1.0, 60.0)
"""Between attempts at removals that have to wait: about the first, and the longest."""


class Spool:
    """What waits there, and its working off; one event loop only."""

    def __init__(self, directory: Path, act: Callable[[Cni], Awaitable[object]]) -> None:
        """
        Args:
            act: does a removal. What it raises `InvalidInput` or `CNIFailure` for can never be
                done; anything else may be later.
        """
        self._directory = directory
        self._act = act
        self._turn = asyncio.Lock()
        """One at a time: what a second one still does, the ADD after the first would suffer."""
        self._kept = asyncio.Event()
        self.waiting: frozenset[str] = frozenset()
        """Containers whose removal could not be done by the last `work_off`."""

    async def keep(self, request: Cni) -> None:
        """It outlives this process and the host when this returns.

        Raises:
            Unavailable: it cannot be written.
        """
        # The plugin's handle of a namespace is gone when this is read again.
        content = msgspec.json.encode(msgspec.structs.replace(request, handle=-1)) + b"\n"
        path = self._directory / f"{hashlib.sha256(content).hexdigest()[:32]}.json"
        await in_thread(self._write, path, content)
        self._kept.set()

    async def run(self) -> None:
        """Work off what waits, whenever something does, for ever."""
        backoff = Backoff(*PAUSE_SECONDS)
        while True:
            self._kept.clear()
            if await self.work_off():
                backoff.reset()
                await self._kept.wait()
            else:
                await asyncio.sleep(backoff.next_seconds())

    async def work_off(self) -> bool:
        """One attempt at everything that waits; False if some of it still has to."""
        async with self._turn:
            done, waiting = True, set()
            for path in spooled(self._directory):
                container = ""
                try:
                    request = read_removal(path)
                    container = request.environment.get("CNI_CONTAINERID", "")
                    await self._act(request)
                except (InvalidInput, CNIFailure) as error:
                    log.error("%s is dropped: %s", path, error)
                except (TortieError, OSError) as error:
                    log.warning("%s: not done yet: %s", path, error)
                    waiting.add(container)
                    done = False
                    continue
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning("%s is done, and stays: %s", path, error)
                    done = False
            self.waiting = frozenset(waiting)
            return done

    def _write(self, path: Path, content: bytes) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, content, 0o600)
            handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise Unavailable(f"{self._directory}: {error.strerror}") from error


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
    names, dead = [], time.time() - WRITING_SECONDS
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # its plugin took it back meanwhile
                known = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(known.st_mode):
                    continue
                half = entry.name.startswith(".") or entry.name.endswith(".new")
                if entry.name.endswith(".json") and known.st_size <= REQUEST_MAX_BYTES:
                    names.append((known.st_mtime_ns, entry.name))
                elif half and known.st_mtime < dead:  # its writer was killed, and told nobody
                    os.unlink(entry.path)
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
