"""A real agent in a network of its own, with a datastore behind a socket or a file."""

import asyncio
import http.client
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tortie.kernel import netns
from tortie.kernel.nft.connection import Nft
from tortie.lab import processes

PATIENCE_SECONDS = 20.0
HEALTH_PORT = 9099
_NUMBERS = itertools.count()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Host(NamedTuple):
    """Where the agent runs.

    Attributes:
        folder: of its sockets, its state and its log.
        python: arguments that make the interpreter run `tortie`.
    """

    namespace: str
    folder: Path
    environment: Mapping[str, str]
    python: Sequence[str]

    def workload(self, *words: str) -> Outcome:
        """As `tortie workload` on that host."""
        socket = str(self.folder / "run" / "attach.sock")
        return self.run(sys.executable, "-m", "tortie", "workload", *words, "--socket", socket)

    def run(self, *words: str) -> Outcome:
        done = netns.run_in(
            netns.named_path(self.namespace),
            lambda: subprocess.run(words, capture_output=True, text=True, check=False),
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def rules(self) -> str:
        """All of nf_tables, without what counts packets."""
        return self.run("nft", "--stateless", "list", "ruleset").out

    def generation(self) -> int:
        """Grows with each change of nf_tables."""

        def read() -> int:
            nft = Nft.open()
            try:
                return asyncio.run(nft.generation())
            finally:
                nft.close()

        return netns.run_in(netns.named_path(self.namespace), read)

    def links(self) -> str:
        return self.run("ip", "-o", "link").out

    def readiness(self) -> tuple[int, str]:
        """Status and text of what its health server says."""

        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", HEALTH_PORT, timeout=5)
            connection.request("GET", "/readiness")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        return netns.run_in(netns.named_path(self.namespace), ask)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        return int((self.folder / "run" / "agent.pid").read_text())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def cpu_seconds(self) -> float:
        """Of the agent, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self) -> None:
        command = [
            sys.executable, *self.python, "agent",
            "--run-directory", str(self.folder / "run"),
            "--state-directory", str(self.folder / "state"),
        ]  # fmt: skip
        socket = self.folder / "run" / "attach.sock"
        socket.unlink(missing_ok=True)
        log, environment = self.folder / "log", self.environment
        processes.start(self.namespace, command, log, environment=environment)
        eventually(socket.exists, self.log)

    def kill(self) -> None:
        processes.stop([self.pid], signal.SIGKILL)


@contextmanager
def agent(
    name: str,
    datastore: Mapping[str, str],
    folder: Path,
    python: Sequence[str] = ("-m", "tortie"),
) -> Iterator[Host]:
    """The agent of the node `name`, once it serves; everything of it is gone in the end."""
    namespace = f"lone{os.getpid()}-{next(_NUMBERS)}"
    netns.create_named(namespace)
    settings = {"FELIX_FELIXHOSTNAME": name, "FELIX_HEALTHENABLED": "true"}
    host = Host(namespace, folder, {**datastore, **settings}, python)
    try:
        # For the health server.
        assert host.run("ip", "link", "set", "lo", "up").code == 0
        host.start()
        yield host
    finally:
        for pid in processes.inside([namespace]):
            os.kill(pid, signal.SIGCONT)
        processes.stop(processes.inside([namespace]))
        netns.delete_named(namespace)


def eventually(holds: Callable[[], object], why_not: Callable[[], str]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < give_up, why_not()
        time.sleep(0.05)
