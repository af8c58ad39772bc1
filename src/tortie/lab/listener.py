"""Answers inside a workload: accepts TCP, echoes TCP and UDP, on the ports given.

    python -I -S listener.py tcp:80 udp:53

Runs once per workload, so it imports next to nothing and sleeps in one select.
"""

import select
import socket
import sys

READ_BYTES = 65536


def main(ports: list[str]) -> None:
    listening: dict[int, socket.socket] = {}
    connected: dict[int, socket.socket] = {}
    for port in ports:
        protocol, _, number = port.partition(":")
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        listener = socket.socket(socket.AF_INET6, kind)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", int(number)))
        if kind == socket.SOCK_STREAM:
            listener.listen(128)
        listening[listener.fileno()] = listener
    while True:
        for ready in select.select([*listening, *connected], [], [])[0]:
            if ready in connected:
                _echo(connected, ready)
            elif listening[ready].type == socket.SOCK_STREAM:
                accepted, _ = listening[ready].accept()
                connected[accepted.fileno()] = accepted
            else:
                payload, sender = listening[ready].recvfrom(READ_BYTES)
                _try_to_send(listening[ready], payload, sender[:2])


def _echo(connected: dict[int, socket.socket], ready: int) -> None:
    try:
        payload = connected[ready].recv(READ_BYTES)
        if payload:
            connected[ready].sendall(payload)
            return
    except OSError:
        pass  # the other side is gone
    connected.pop(ready).close()


def _try_to_send(sock: socket.socket, payload: bytes, receiver: tuple[str, int]) -> None:
    try:
        sock.sendto(payload, receiver)
    except OSError:
        return  # no way back; whoever asked sees no answer


if __name__ == "__main__":
    main(sys.argv[1:])
