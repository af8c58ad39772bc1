"""UDP there and back, 500 a second: `echo ADDRESS` answers, `send ADDRESS SECONDS` counts."""

import contextlib
import socket
import sys
import time

PORT = 7007
INTERVAL_SECONDS = 0.002


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo(address: str) -> None:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as server:
        server.bind((address, PORT))
        print("ready", flush=True)
        while True:
            data, sender = server.recvfrom(64)
            server.sendto(data, sender)


def send(address: str, seconds: float) -> None:
    """Print how many were sent and how many never came back."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        missing: set[bytes] = set()
        sent = 0
        end = time.monotonic() + seconds
        client.connect((address, PORT))
        while time.monotonic() < end + 1.0 and (missing or time.monotonic() < end):
            if time.monotonic() < end:
                missing.add(data := sent.to_bytes(8, "big"))
                sent += 1
                with contextlib.suppress(OSError):  # no route: never sent, so lost
                    client.send(data)
            client.settimeout(INTERVAL_SECONDS)
            try:
                while True:
                    missing.discard(client.recv(64))
                    client.settimeout(0.0)
            except (TimeoutError, BlockingIOError, ConnectionError):
                if client.gettimeout() == 0.0:
                    time.sleep(INTERVAL_SECONDS)
        when = sorted(round(int.from_bytes(data, "big") * seconds / sent, 2) for data in missing)
        print(sent, len(missing), *when[:20])


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        send(sys.argv[2], float(sys.argv[3]))
