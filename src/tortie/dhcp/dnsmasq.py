"""One dnsmasq: started, watched, started again when it dies, replaced when its network changes.

It outlives a crash of ours and goes on serving; whoever comes after us finds it by the file `pid`
and puts a new one in its place once it knows what is to be served. Asked to stop, we take it along.

Port 67 is shared, so a new one can begin before the old one has ended; but both would answer, and
the old one with what is no longer true. So: first the end, then the beginning, some milliseconds
in which a guest's question is lost; it asks again.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import shutil
import signal
from collections.abc import Hashable, Mapping
from pathlib import Path

from tortie.lib.backoff import Backoff
from tortie.lib.errors import Unavailable
from tortie.lib.files import replace_file

log = logging.getLogger(__name__)

FILE = "dnsmasq.conf"
PID_FILE = "pid"
END_SECONDS = 2.0
STEADY_SECONDS = 5.0
"""Having run so long, its next death is another story."""


def find_executable() -> str:
    """
    Raises:
        Unavailable: it is not installed.
    """
    path = shutil.which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Unavailable("dnsmasq is not installed; on Debian: apt-get install dnsmasq-base")
    return path


def find_user() -> str:
    """Whom it becomes: Debian's package makes a user for it."""
    for name in ("dnsmasq", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return "root"


class Dnsmasq:
    """Of one network. Loop task only.

    Args:
        directory: its own, 0700; made when needed.
    """

    def __init__(self, executable: str, directory: Path) -> None:
        self._executable = executable
        self._directory = directory
        self._text = ""
        self._clients: Mapping[str, Hashable] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.starts = 0
        """How often one was started."""

    @property
    def pid(self) -> int | None:
        """Of the one that runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def serve(self, text: str, clients: Mapping[str, Hashable]) -> bool:
        """Make it run with this configuration; False if it does already.

        Args:
            clients: by link, what tells the guest there from a former one: of whom leases and
                sockets are forgotten by starting anew.

        Raises:
            Unavailable: it cannot be written, or not be started.
        """
        if (text, clients) == (self._text, self._clients) and self._watcher is not None:
            return False
        await self._end()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._directory / FILE, text.encode(), 0o600)
        self._text, self._clients = text, clients
        await end_leftover(self._directory)
        await self._start()
        self._watcher = asyncio.create_task(self._watch())
        return True

    async def stop(self) -> None:
        """End it and take its files away."""
        await self._end()
        await end_leftover(self._directory)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._text, self._clients = "", {}

    async def _start(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                self._executable,
                "--keep-in-foreground",
                "--log-facility=-",
                "--pid-file=",
                f"--conf-file={self._directory / FILE}",
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"{self._executable}: {error.strerror}") from error
        self.starts += 1
        replace_file(self._directory / PID_FILE, f"{self._process.pid}\n".encode(), 0o600)

    async def _watch(self) -> None:
        """Start it again whenever it dies, for ever."""
        backoff = Backoff(0.1, 30.0)
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            began = loop.time()
            code = await self._process.wait()
            if loop.time() - began > STEADY_SECONDS:
                backoff.reset()
            log.warning("%s: dnsmasq ended (%s); starting it again", self._directory.name, code)
            while True:
                await asyncio.sleep(backoff.next_seconds())
                try:
                    await self._start()
                    break
                except Unavailable as error:
                    log.error("%s", error)

    async def _end(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def end_leftover(directory: Path) -> bool:
    """End the one that somebody before us started in this directory; False if there is none."""
    try:
        pid = int((directory / PID_FILE).read_text())
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return False
    try:
        # The number may be another process's by now.
        if f"--conf-file={directory / FILE}".encode() not in _command(pid):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not await _gone(descriptor, END_SECONDS):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            await _gone(descriptor, END_SECONDS)
    except (ProcessLookupError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
    return True


def _command(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


async def _gone(descriptor: int, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        async with asyncio.timeout(seconds):
            await gone.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True
