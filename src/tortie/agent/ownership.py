"""The agent's side of the keeper: get the owning socket, start a keeper if there is none."""

import array
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tortie.agent import keeper
from tortie.lib.errors import AlreadyExists, Unavailable

START_SECONDS = 5.0


class Ownership:
    """The socket that owns our tables, and the right to use it.

    The keeper gives it to no other agent while `connection` is open: so two
    agents never run on one host.
    """

    def __init__(self, netlink: socket.socket, connection: socket.socket) -> None:
        self.netlink = netlink
        self._connection = connection

    def close(self) -> None:
        self.netlink.close()
        self._connection.close()


def obtain(run_directory: Path) -> Ownership:
    """Ask the keeper of `run_directory` for the socket; start one if nobody answers.

    Raises:
        AlreadyExists: another agent of this host holds it.
        Unavailable: no keeper could be started.
    """
    path = run_directory / keeper.SOCKET_NAME
    connection = _connect(path)
    if connection is None:
        keeper_process = _start(run_directory)
        give_up = time.monotonic() + START_SECONDS
        while (connection := _connect(path)) is None:
            # It ends with 0 where another keeper is about to answer.
            if keeper_process.poll() or time.monotonic() > give_up:
                raise Unavailable(f"the keeper of {run_directory} does not answer")
            time.sleep(0.01)
    answer, control, _, _ = connection.recvmsg(32, socket.CMSG_SPACE(4))
    if not answer.startswith(b"K"):
        connection.close()
        holder = answer[1:].decode("ascii", "replace") or "unknown"
        raise AlreadyExists(
            f"another agent (process {holder}) runs on this host; stop it, or give this one "
            "another --run-directory"
        )
    fds = array.array("i")
    for _, _, payload in control:
        fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return Ownership(socket.socket(fileno=fds[0]), connection)


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    connection.settimeout(START_SECONDS)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _start(run_directory: Path) -> "subprocess.Popen[bytes]":
    """Start a keeper that outlives us: its own session, nothing of ours open."""
    run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own file
        [sys.executable, "-I", "-S", os.path.abspath(keeper.__file__), str(run_directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        close_fds=True,
        start_new_session=True,
    )
