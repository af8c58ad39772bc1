"""A real etcd on loopback, with its data in a folder of the test."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

from tortie.kernel import netns

_SOCKET = "127.0.0.1:1"


class EtcdServer:
    """One member; `kill`, `forget` and `start` make faults.

    Args:
        address: in the network `namespace`; empty means loopback here.
        fsync: as in real life, not only as long as the machine lives.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str] = (),
        *,
        scheme: str = "http",
        address: str = "",
        namespace: str = "",
        fsync: bool = False,
    ) -> None:
        self.folder = folder
        self._namespace = namespace
        self.client_port, self.peer_port = (2379, 2380) if address else free_ports(2)
        address = address or "127.0.0.1"
        self.endpoint = f"{scheme}://{address}:{self.client_port}"
        self.peer = f"http://{address}:{self.peer_port}"
        folder.mkdir(exist_ok=True)
        self._command = [
            "etcd",
            f"--name={folder.name}",
            f"--data-dir={folder / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={self.peer}",
            f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster={folder.name}={self.peer}",
            *([] if fsync else ["--unsafe-no-fsync"]),
            "--logger=zap",
            *options,
        ]
        self.process: subprocess.Popen[bytes]

    def join(self, members: Sequence["EtcdServer"]) -> None:
        """Before the start: be one of `members`, itself among them."""
        cluster = ",".join(f"{member.folder.name}={member.peer}" for member in members)
        self._command.append(f"--initial-cluster={cluster}")

    def also_on_socket(self) -> Path:
        """Before the start: listen on a unix socket, too, for who is in another network."""
        listening = f"--listen-client-urls={self.endpoint}"
        # Host and port of nothing: etcd makes a socket of this name where it runs.
        at = self._command.index(listening)
        self._command[at] = f"{listening},unix://{_SOCKET}"
        return self.folder / _SOCKET

    def start(self) -> "EtcdServer":
        self.spawn()
        return self.wait()

    def spawn(self) -> None:
        # One that was killed leaves it, and the next one would not start.
        (self.folder / _SOCKET).unlink(missing_ok=True)
        with (self.folder / "log").open("wb") as log:
            self.process = self._popen(log)

    def _popen(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        if self._namespace:
            path = netns.named_path(self._namespace)
            return netns.spawn_in(path, self._command, stdout=log, stderr=log, cwd=str(self.folder))
        return subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.folder)

    def wait(self, patience_seconds: float = 15.0) -> "EtcdServer":
        log_path = self.folder / "log"
        deadline = time.monotonic() + patience_seconds
        # It listens before it has a leader; this line comes after both.
        while b"serving client traffic" not in log_path.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log_path.read_text()[-3000:])
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """As a crash: nothing is flushed or told."""
        self.process.kill()
        self.process.wait()

    def restore(self, snapshot: Path) -> None:
        """Its data from a backup: the next start is the cluster of then, under a new identity."""
        shutil.rmtree(self.folder / "data")
        etcdctl = ["etcdctl", "snapshot", "restore", str(snapshot)]
        place = [f"--data-dir={self.folder / 'data'}", f"--name={self.folder.name}"]
        cluster = [f"--initial-cluster={self.folder.name}={self.peer}"]
        advertise = [f"--initial-advertise-peer-urls={self.peer}"]
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/usr/local/bin"}
        subprocess.run(
            [*etcdctl, *place, *cluster, *advertise],
            check=True, capture_output=True, env=environment,
        )  # fmt: skip

    def forget(self, token: str) -> None:
        """Delete its data: the next start makes a new cluster at the same address.

        Its id follows from its addresses and `token`.
        """
        shutil.rmtree(self.folder / "data")
        self._command.append(f"--initial-cluster-token={token}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


Start = Callable[..., EtcdServer]
"""Of `start`: takes options of etcd, and `scheme`."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers, and kills them afterwards."""
    servers: list[EtcdServer] = []

    def start_one(*options: str, scheme: str = "http") -> EtcdServer:
        folder = tmp_path / f"etcd{len(servers)}"
        servers.append(EtcdServer(folder, options, scheme=scheme).start())
        return servers[-1]

    yield start_one
    for server in servers:
        server.process.send_signal(signal.SIGCONT)
        server.kill()
