"""Wakes every process that watches the file when one of them commits.

A write to the bell file makes one inotify event for each listener; the kernel
fans out, so a writer does one system call, needs no list of listeners, and
leaves nothing stale behind when it dies. Every client keeps the bell open for
writing: if one is killed between its commit and its ring, the kernel closes
the file for it, and that wakes the listeners too.

SQLite's own WAL would not do as the bell: it is written *before* the commit
becomes visible in shared memory, so listeners would look too early.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from tortie.lib.errors import Denied, Unavailable

_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_CLOSE_WRITE = 0x8
_IN_MOVE_SELF = 0x800
"""From include/uapi/linux/inotify.h."""

_READ_BYTES = 4096
"""Any size over one event (16 bytes; a watch on a file carries no name) drains many."""

_libc = ctypes.CDLL(None, use_errno=True)


class Bell:
    """The open bell file: `ring` from any thread, the rest on the loop.

    Raises:
        Denied: the file must not be opened.
        Unavailable: the file or inotify is short of something; `listen` too
            (`fs.inotify.max_user_instances` is 128 for one user).
    """

    def __init__(self, path: Path) -> None:
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            raise Denied(f"no permission to read and write {path}") from None
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from error
        self._path = path
        self._inotify: int | None = None
        if os.fstat(self.fd).st_size == 0:
            self.ring()

    def ring(self) -> None:
        os.pwrite(self.fd, b"\n", 0)

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` after every ring, several rings perhaps making one call.

        It is also called when the bell file is moved or deleted: look whether
        the datastore is still there.
        """
        mask = _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVE_SELF
        inotify = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._inotify = inotify
        _check(_libc.inotify_add_watch(inotify, os.fsencode(self._path), mask))

        def drain() -> None:
            os.read(inotify, _READ_BYTES)
            heard()

        asyncio.get_running_loop().add_reader(inotify, drain)

    def deafen(self) -> None:
        """Stop listening; without listeners there is nothing to wake up for."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = None

    @property
    def listening(self) -> bool:
        return self._inotify is not None

    def close(self) -> None:
        os.close(self.fd)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise Unavailable(f"inotify: {os.strerror(code)}")
    return result
