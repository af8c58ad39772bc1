"""A real etcd on loopback, with its data in a folder of the test."""

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_SOCKET = "127.0.0.1:1"


class EtcdServer:
    """One member; `kill`, `forget` and `start` make faults."""

    def __init__(self, folder: Path, options: Sequence[str] = (), *, scheme: str = "http") -> None:
        self.folder = folder
        self.client_port, self.peer_port = free_ports(2)
        self.endpoint = f"{scheme}://127.0.0.1:{self.client_port}"
        self.peer = f"http://127.0.0.1:{self.peer_port}"
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
            "--unsafe-no-fsync",
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
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.folder)

    def wait(self) -> "EtcdServer":
        log_path = self.folder / "log"
        deadline = time.monotonic() + 15
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
