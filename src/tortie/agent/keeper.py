"""Holds the netlink socket that owns our nftables tables, and nothing else.

A table made with the flags `owner` and `persist` can be changed only through
the socket that made it, so a third party's `nft flush ruleset` passes it by.
If that socket closed when the agent dies, the table would be anyone's until
the next agent adopts it. So this process opens the socket, hands duplicates
to one agent at a time, and stays.

It runs as `python -I -S keeper.py RUN_DIRECTORY`, imports next to nothing,
parses nothing from outside, and needs CAP_NET_ADMIN only to be that owner.

    agent connects to RUN_DIRECTORY/keeper.sock
      ◄─ b"K" and the socket (SCM_RIGHTS)   it is yours until you disconnect
      ◄─ b"B<pid>"                          another agent of this host has it
"""

import array
import fcntl
import os
import select
import socket
import struct
import sys

NETLINK_NETFILTER = 12
SOCKET_NAME = "keeper.sock"
LOCK_NAME = "keeper.lock"


def main(directory: str) -> int:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(directory, LOCK_NAME), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another keeper serves this directory
    netlink = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    )
    netlink.bind((0, 0))
    listener = _listen(os.path.join(directory, SOCKET_NAME))
    _notify(os.environ.pop("NOTIFY_SOCKET", ""))
    serve(listener, netlink)
    return 0


def _notify(address: str) -> None:
    """Tell systemd that we answer; `lib/supervisor.py` is out of reach under -I -S."""
    if address.startswith(("/", "@")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
            door.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
            door.send(b"READY=1")


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    if os.path.lexists(path):
        os.unlink(path)  # left by a keeper that was killed; we hold the lock
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(8)
    return listener


def serve(listener: socket.socket, netlink: socket.socket) -> None:
    """Hand out the socket, to one agent at a time, for ever."""
    holder: socket.socket | None = None
    holder_pid = 0
    while True:
        waiting = [listener] if holder is None else [listener, holder]
        readable, _, _ = select.select(waiting, [], [])
        if holder is not None and holder in readable and not holder.recv(1):
            holder.close()
            holder = None
        if listener in readable:
            asking, _ = listener.accept()
            pid, uid, _ = struct.unpack(
                "3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
            if uid not in (0, os.geteuid()):
                asking.close()
            elif holder is not None:
                asking.send(b"B%d" % holder_pid)
                asking.close()
            else:
                fds = array.array("i", [netlink.fileno()])
                asking.sendmsg([b"K"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                holder, holder_pid = asking, pid


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
