"""A watch over the gateway: one HTTP answer that does not end, a JSON object to a line."""

import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from tortie.datastore.client import Batch
from tortie.datastore.etcd.status import judge
from tortie.lib.errors import Compacted, Unavailable
from tortie.openstack import gateway_messages as messages

_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
}
"""Seconds and tries: the kernel asks whether a silent peer is still there."""


class Watch:
    """Iterate over it in one thread; `close` from any thread ends the iteration."""

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        endpoint: str,
    ) -> None:
        self._connection = connection
        self._response = response
        self._endpoint = endpoint
        self._closed = False
        self._is_read = False
        self._unread = self._read()
        self._pid = os.getpid()
        self._socket = connection.sock
        if self._socket is not None:
            self._socket.settimeout(None)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEP_ALIVE.items():
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Whole revisions, oldest first; without events a notice of progress.

        Ends when it is closed, and otherwise only by an error.

        Raises:
            Compacted: the history that it should begin with is gone; list anew.
            Unavailable: the connection is lost.
        """
        self._is_read = True
        try:
            return next(self._unread)
        finally:
            self._is_read = False
            if self._closed:
                self._connection.close()

    def _read(self) -> Iterator[Batch]:
        while True:
            try:
                line = self._response.readline()
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
                # The latter two: closed by another thread between two reads.
                if self._closed:
                    return
                raise Unavailable(f"etcd at {self._endpoint}: watch lost: {error}") from None
            if self._closed:
                return
            if not line:
                raise Unavailable(f"etcd at {self._endpoint}: watch ended")
            yield from self._batches(line)

    def close(self) -> None:
        """End it. Where another thread, or greenlet, is reading, that one lets go of it."""
        self._closed = True
        # A child that inherited it must not end the parent's.
        if self._socket is not None and self._pid == os.getpid():
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if not self._is_read:
            self._connection.close()

    def _batches(self, line: bytes) -> Iterator[Batch]:
        try:
            message = messages.decode(messages.WatchMessage, line)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"etcd at {self._endpoint}: {error}") from None
        if message.error is not None:
            code = message.error.grpc_code or message.error.code
            raise judge(code, message.error.message, self._endpoint, writes=False)
        result = message.result
        if result is None:
            return
        if result.canceled:
            if result.compact_revision:
                raise Compacted(result.compact_revision)
            reason = result.cancel_reason or "no reason"
            raise Unavailable(f"etcd at {self._endpoint}: watch refused: {reason}")
        if not result.created:
            yield Batch([event.event for event in result.events], result.header.revision)
