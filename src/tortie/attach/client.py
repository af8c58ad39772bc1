"""Call the attach service from another process: lab, CNI plugin, Docker driver.

Imports nothing but the standard library's socket and json, because a CNI
plugin starts once for each container and must not spend longer on imports
than the agent does on the work.
"""

import json
import os
import socket
from contextlib import suppress
from typing import Any

from tortie.lib.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)

DEFAULT_PATH = "/run/tortie/attach.sock"

GRACE_SECONDS = 20.0
"""The service may need that long, beyond the request's own limit, to undo a failed call."""

_KNOWN = {
    known.__name__: known for known in (InvalidInput, AlreadyExists, NotFound, Conflict, Denied)
}

_ANSWER_MAX_BYTES = 64 << 20
"""A list of every workload; nobody sane has more."""


class Client:
    """One connection, made at the first call; not for several threads at once."""

    def __init__(
        self, path: str | os.PathLike[str] = DEFAULT_PATH, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        """
        Args:
            grace_seconds: how much longer than a request's own limit its answer may take.
        """
        self._path = os.fspath(path)
        self._grace_seconds = grace_seconds
        self._sock: socket.socket | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def add(self, **request: Any) -> dict[str, Any]:
        """Bring a workload in; the fields of `requests.Add`, answers those of `Attached`.

        Raises:
            InvalidInput, AlreadyExists, NotFound, Conflict, Denied, TortieError:
                the service said so; the class it had over there.
            Unavailable: there is no service, it did not answer in time, or it
                said that the same call may succeed later.
        """
        return self.call("add", request)

    def remove(self, **request: Any) -> dict[str, Any]:
        """Take a workload out; fields of `requests.Remove` and `Removed`. Raises as `add`."""
        return self.call("remove", request)

    def check(self, **request: Any) -> list[str]:
        """What is not in place; empty if all is. Raises as `add`."""
        problems: list[str] = self.call("check", request)["problems"]
        return problems

    def list(self) -> "list[dict[str, Any]]":
        """Every workload of the host, as `Attached`. Raises as `add`."""
        workloads: list[dict[str, Any]] = self.call("list", {})["workloads"]
        return workloads

    def call(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer. Raises as `add`."""
        line = json.dumps({"call": name, **fields}).encode() + b"\n"
        try:
            sock = self._connected()
            sock.settimeout(float(fields.get("timeout_seconds", 30.0)) + self._grace_seconds)
            # Who may not call is told so and cut off, perhaps before this is sent.
            with suppress(BrokenPipeError):
                sock.sendall(line)
            answer = json.loads(self._read_line(sock))
        except OSError as error:
            self.close()
            raise self._unavailable(error) from error
        except ValueError as error:
            self.close()
            raise InvalidInput(f"{self._path} does not speak the attach protocol") from error
        if "error" in answer:
            raise _error(**answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _connected(self) -> socket.socket:
        if self._sock is None:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._sock.settimeout(self._grace_seconds)
            self._sock.connect(self._path)
        return self._sock

    def _read_line(self, sock: socket.socket) -> bytes:
        found = bytearray()
        while not found.endswith(b"\n"):
            part = sock.recv(65536)
            if not part:
                raise ConnectionError("the service closed the connection")
            found += part
            if len(found) > _ANSWER_MAX_BYTES:
                raise ValueError("endless answer")
        return bytes(found)

    def _unavailable(self, error: OSError) -> TortieError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return Unavailable(f"no agent listens at {self._path}; start it with `tortie agent`")
        if isinstance(error, TimeoutError):
            return Unavailable(f"the agent at {self._path} did not answer in time; call again")
        if isinstance(error, PermissionError):
            return InvalidInput(f"{self._path}: {error.strerror}; attaching workloads needs root")
        return Unavailable(f"the agent at {self._path}: {error}")


def _error(kind: str, message: str, retryable: bool, **_: object) -> TortieError:
    """The service's error in its own words; a class that only it knows becomes a wider one."""
    return (Unavailable if retryable else _KNOWN.get(kind, TortieError))(message)
