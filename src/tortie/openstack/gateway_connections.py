"""Connections to etcd's gateway: which endpoint, and a pool of those that are idle.

A connection serves one request at a time. Idle ones belong to the process that made them: after
a fork the child begins with none and closes what it inherited. No lock is held anywhere, so a
fork never inherits one; a deque's ends are atomic. Endpoints are tried in turn, beginning with
the one that answered last.
"""

import http.client
import os
import select
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from tortie.lib.errors import Unavailable

if TYPE_CHECKING:
    import ssl

    from tortie.datastore.etcd.tls import TLSFiles

CONNECT_SECONDS = 5.0
IDLE_CONNECTIONS = 16
"""Kept of what a burst of threads opened."""
IDLE_SECONDS = 60.0
"""Longer than that nothing in between may remember the connection."""


class _Idle(NamedTuple):
    connection: http.client.HTTPConnection
    endpoint: int
    since: float


class Connections:
    """
    Args:
        endpoints: hosts and ports, at least one.
        timeout_seconds: for each request, once connected.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[str, int]],
        tls: "TLSFiles | None",
        timeout_seconds: float,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._preferred = 0
        self._pid = os.getpid()
        self._idle: deque[_Idle] = deque()

    def __len__(self) -> int:
        """Of endpoints."""
        return len(self._endpoints)

    def name(self, endpoint: int) -> str:
        """As messages show it."""
        host, port = self._endpoints[endpoint]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def take(self) -> tuple[http.client.HTTPConnection, int]:
        """An idle connection, or a new one, and the number of its endpoint.

        Raises:
            Unavailable: no endpoint takes connections.
            InvalidInput: a certificate's file is none.
        """
        pool = self._mine()
        while pool:
            with suppress(IndexError):  # another thread took the last one
                connection, endpoint, since = pool.pop()
                if time.monotonic() - since < IDLE_SECONDS and not _is_stale(connection):
                    return connection, endpoint
                connection.close()
        reasons = []
        for turn in range(len(self._endpoints)):
            endpoint = (self._preferred + turn) % len(self._endpoints)
            connection = self._new(endpoint)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                reasons.append(f"{self.name(endpoint)}: {error.strerror or error}")
                continue
            assert connection.sock is not None
            connection.sock.settimeout(self._timeout_seconds)
            self._preferred = endpoint
            return connection, endpoint
        raise Unavailable(f"no etcd answers ({'; '.join(reasons)})")

    def give_back(
        self,
        connection: http.client.HTTPConnection,
        endpoint: int,
        response: http.client.HTTPResponse,
    ) -> None:
        """For the next request, when the answer to this one has been read."""
        pool = self._mine()
        if response.will_close or len(pool) >= IDLE_CONNECTIONS:
            connection.close()
        else:
            pool.append(_Idle(connection, endpoint, time.monotonic()))

    def lost(self, endpoint: int, error: Exception, *, writes: bool) -> Unavailable:
        """What to raise when a connection broke; the next one goes to another endpoint first."""
        self._preferred = (endpoint + 1) % len(self._endpoints)
        reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or "closed"
        text = f"etcd at {self.name(endpoint)}: connection lost: {reason}"
        return Unavailable(text, maybe_applied=writes)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is given back."""
        for idle in self._mine():
            idle.connection.close()
        self._idle = deque()

    def _mine(self) -> deque[_Idle]:
        """The pool of this process; a fork's child starts anew."""
        if self._pid != os.getpid():
            self._idle = deque()  # closes the inherited descriptors, and not the connections
            self._pid = os.getpid()
        return self._idle

    def _new(self, endpoint: int) -> http.client.HTTPConnection:
        host, port = self._endpoints[endpoint]
        timeout_seconds = min(CONNECT_SECONDS, self._timeout_seconds)
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        return http.client.HTTPSConnection(
            host, port, timeout=timeout_seconds, context=self._context(self._tls)
        )

    def _context(self, tls: "TLSFiles") -> "ssl.SSLContext":
        from tortie.datastore.etcd.tls import client_context

        # Files are read for each connection: certificates are renewed without a restart.
        context = client_context(tls)
        context.set_alpn_protocols(["http/1.1"])
        return context


def _is_stale(connection: http.client.HTTPConnection) -> bool:
    """Did the other side close it? There is nothing to read on one that merely waits."""
    if connection.sock is None:
        return True
    try:
        return bool(select.select([connection.sock], [], [], 0)[0])
    except (OSError, ValueError):  # ValueError: more descriptors than select can name
        return False
