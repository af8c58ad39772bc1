"""Sockets of rtnetlink that are used again: opening one costs ten system calls."""

import contextlib
from collections.abc import Iterator

from tortie.kernel.rtnl.connection import Rtnl


class IdleSockets:
    """Of the namespace of whoever asks; as many as there are threads that ask at once."""

    def __init__(self) -> None:
        self._idle: list[Rtnl] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[Rtnl]:
        """For the caller alone; a socket on which something failed is not used again."""
        rtnl = self._idle.pop() if self._idle else Rtnl.open()
        try:
            yield rtnl
        except BaseException:
            rtnl.close()
            raise
        self._idle.append(rtnl)
