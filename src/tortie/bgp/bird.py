"""Runs BIRD and talks to it: check, replace, configure, and only when bytes differ.

BIRD is a daemon of its own: it outlives the agent, so that a crash or an
upgrade of the agent never touches a session. A new agent finds it by its
control socket and goes on with it. When BIRD dies it is started again with
`-R` (recover), so that graceful restart keeps the peers' routes.

The control protocol is lines of `NNNN text`: 0xxx success, 1xxx table rows,
8xxx and 9xxx errors; a space behind the number ends the answer.
Source: BIRD 2.0, doc/reply_codes.
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from tortie.lib.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
START_SECONDS = 10.0
UNIX_PATH_MAX_BYTES = 107


class ProtocolState(NamedTuple):
    """One line of `show protocols`."""

    name: str
    protocol: str
    state: str
    """`up`, `start`, `down`."""
    since: str
    info: str
    """For BGP: `Established`, or what it waits for."""


class Bird:
    """One BIRD of one host. Loop task only.

    Args:
        directory: `bird.conf`, `bird.ctl` and `bird.pid` are in it.
        starts: start BIRD, and again when it dies; else somebody else does
            (`bird -f -c bird.conf -s bird.ctl -P bird.pid $RECOVER`, as systemd's unit
            has it) while `bird.conf` exists. RECOVER is in `start.env`: `-R` once one
            has run, so that graceful restart keeps the peers' routes.
    """

    def __init__(self, directory: Path, executable: str = "bird", *, starts: bool = True) -> None:
        self._executable = executable
        self._starts = starts
        self._configuration = directory / "bird.conf"
        self._control = directory / "bird.ctl"
        self._pid_file = directory / "bird.pid"
        self._start_environment = directory / "start.env"
        self._directory = directory
        self._watcher: asyncio.Task[None] | None = None
        if len(str(self._control).encode()) > UNIX_PATH_MAX_BYTES:
            raise InvalidInput(
                f"{self._control} is too long for a unix socket; choose a shorter run directory"
            )

    async def configure(self, text: str) -> bool:
        """Make BIRD run `text`; start it if it does not run.

        Returns:
            Whether anything was written: equal text is left alone.

        Raises:
            InvalidInput: BIRD refuses the text; it goes on with the last good one.
            Unavailable: BIRD cannot be started or does not answer.
        """
        running = await self._answers()
        if running and not self._starts and not self._start_environment.exists():
            self._start_environment.write_text("RECOVER=-R\n")
        if running and self._current() == text:
            self._watch()
            return False
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        candidate = self._configuration.with_suffix(".new")
        _write_private(candidate, text)
        await self._check(candidate)
        os.replace(candidate, self._configuration)
        if running:
            # The lines before the last one say what it reads.
            code, detail = (await self.ask("configure"))[-1]
            if code not in (3, 4, 18, 23):  # reconfigured, in progress, ignored, deferred
                raise InvalidInput(f"BIRD: {detail}")
        elif self._starts:
            await self._start(recover=False)
        else:
            raise Unavailable(f"BIRD does not run with {self._control}; start its unit")
        self._watch()
        return True

    async def protocols(self) -> list[ProtocolState]:
        """Raises: Unavailable."""
        states = []
        for code, text in await self.ask("show protocols"):
            columns = text.split(None, 5)
            if code == 1002 and len(columns) >= 5:
                name, protocol, _, state, since, *info = columns
                states.append(
                    ProtocolState(name, protocol, state, since, info[0].strip() if info else "")
                )
        return states

    async def ask(self, command: str) -> list[tuple[int, str]]:
        """One command, and its answer as (code, text) lines.

        Raises:
            Unavailable: no BIRD there, or it does not answer in time.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(str(self._control))
                try:
                    await _answer(reader)  # the greeting
                    writer.write(command.encode() + b"\n")
                    return await _answer(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise Unavailable(f"BIRD does not answer on {self._control}: {error}") from error

    async def retire(self) -> None:
        """Take BIRD's routes out of the kernel, then end it; nothing if it does not run.

        `persist` keeps its routes when it ends, so first they are withdrawn.
        """
        text = self._current()
        if text is None or not await self._answers():
            return
        await self.close()
        await self.configure(re.sub(r"export filter to_kernel[46];", "export none;", text))
        await self.close()
        # Before it ends: whoever else starts it does so while there is a configuration.
        self._configuration.unlink(missing_ok=True)
        self._start_environment.unlink(missing_ok=True)
        await self.ask("down")

    async def close(self) -> None:
        """Stop watching; BIRD itself goes on."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    def _current(self) -> str | None:
        try:
            return self._configuration.read_text()
        except FileNotFoundError:
            return None

    async def _answers(self) -> bool:
        try:
            await self.ask("show status")
        except Unavailable:
            return False
        return True

    async def _check(self, candidate: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            self._path(),
            "-p",
            "-c",
            str(candidate),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise InvalidInput(
                f"BIRD refuses its configuration: {output.decode(errors='replace').strip()}"
            )

    async def _start(self, *, recover: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._control.unlink()
        arguments = [
            "-c",
            str(self._configuration),
            "-s",
            str(self._control),
            "-P",
            str(self._pid_file),
        ]
        process = await asyncio.create_subprocess_exec(
            self._path(),
            *arguments,
            *(["-R"] if recover else []),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        # It becomes a daemon: the process that we started ends when BIRD is up.
        if await process.wait() != 0:
            raise Unavailable("BIRD does not start; see its log")
        for _ in range(int(START_SECONDS / 0.05)):
            if await self._answers():
                return
            await asyncio.sleep(0.05)
        raise Unavailable("BIRD started and does not answer")

    def _path(self) -> str:
        path = shutil.which(self._executable, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path is None:
            raise Unavailable(
                f"{self._executable} is not installed; on Debian: apt-get install bird2"
            )
        return path

    def _watch(self) -> None:
        if self._starts and (self._watcher is None or self._watcher.done()):
            self._watcher = asyncio.create_task(self._restart_when_it_dies())

    async def _restart_when_it_dies(self) -> None:
        """Sleep until BIRD's process ends, then start it again; for ever."""
        wait_seconds = 0.1
        while True:
            await self._death()
            log.warning("BIRD died; starting it again")
            try:
                await self._start(recover=True)
                wait_seconds = 0.1
            except Unavailable as error:
                log.error("%s", error)
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(wait_seconds * 2, 30.0)

    async def _death(self) -> None:
        """Return when the process of the pid file is gone; a pidfd, so nothing is polled."""
        try:
            match = re.fullmatch(r"\s*(\d+)\s*", self._pid_file.read_text())
            descriptor = os.pidfd_open(int(match[1])) if match else None
        except (FileNotFoundError, ProcessLookupError):
            return
        if descriptor is None:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def _write_private(path: Path, text: str) -> None:
    """It holds passwords: nobody else may read it, not even for a moment."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


async def _answer(reader: asyncio.StreamReader) -> list[tuple[int, str]]:
    """Lines up to the one that ends the answer; continuation lines keep the code."""
    lines: list[tuple[int, str]] = []
    code = 0
    while True:
        line = (await reader.readuntil(b"\n")).decode(errors="replace").rstrip("\n")
        if match := re.match(r"(\d{4})([ -])(.*)", line):
            code = int(match[1])
            lines.append((code, match[3]))
            if match[2] == " ":
                return lines
        else:
            lines.append((code, line[1:]))
