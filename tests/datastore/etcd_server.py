"""A real etcd on loopback, with its data in a folder of the test."""

import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


class EtcdServer:
    """One member; `kill`, `start`, `pause` and `resume` make the faults."""

    def __init__(self, folder: Path, options: Sequence[str] = (), *, scheme: str = "http") -> None:
        self.folder = folder
        self.client_port, self.peer_port = free_ports(2)
        self.endpoint = f"{scheme}://127.0.0.1:{self.client_port}"
        peer = f"http://127.0.0.1:{self.peer_port}"
        folder.mkdir(exist_ok=True)
        self._command = [
            "etcd",
            f"--data-dir={folder / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--logger=zap",
            *options,
        ]
        self.process: subprocess.Popen[bytes]

    def start(self) -> "EtcdServer":
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 15
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text()[-3000:])
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """As a crash: nothing is flushed or told."""
        self.process.kill()
        self.process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.client_port)) == 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
