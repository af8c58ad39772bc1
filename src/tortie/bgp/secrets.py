"""Passwords of sessions, from files: `<directory>/<secret's name>/<key>`.

A file that others may read is refused, and a session whose password is
missing is not made at all: without its password it would be open to anybody.
"""

import os
import re
import stat
from pathlib import Path

from tortie.lib.errors import InvalidInput
from tortie.model.bgp_configuration import SecretKeySelector

PASSWORD_MAX_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN of include/uapi/linux/tcp.h."""

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}")
_PASSWORD = re.compile(rb"[ !#-~]+")
"""Printable ASCII but the double quote, which ends a string of BIRD's and cannot be escaped."""

Stamp = tuple[int, int, int]
"""By it a changed file is known: inode, size, time of change."""


class Secrets:
    """
    Args:
        directory: may be absent, then there are no passwords.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[Path, Stamp | None] = {}

    def password(self, reference: SecretKeySelector) -> str:
        """
        Raises:
            InvalidInput: there is no such file, others may read it, or what is in
                it is no password.
        """
        path = self._path(reference)
        self._seen[path] = _stamp(path)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                raw = file.read(PASSWORD_MAX_BYTES + 2)
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise InvalidInput(f"{path} may be read by others; chmod 0600 it")
        if status.st_uid not in (0, os.geteuid()):
            raise InvalidInput(f"{path} belongs to somebody else; chown it to root")
        raw = raw.removesuffix(b"\n")
        if len(raw) > PASSWORD_MAX_BYTES or not _PASSWORD.fullmatch(raw):
            raise InvalidInput(
                f"{path} must hold 1 to {PASSWORD_MAX_BYTES} printable ASCII characters, "
                "none of them a double quote"
            )
        return raw.decode("ascii")

    def changed(self) -> bool:
        """Whether a file that was asked for is another one now."""
        return any(_stamp(path) != stamp for path, stamp in self._seen.items())

    def forget(self) -> None:
        """Before everything is asked for anew."""
        self._seen.clear()

    def _path(self, reference: SecretKeySelector) -> Path:
        for part in (reference.name, reference.key):
            if not _PART.fullmatch(part):
                raise InvalidInput(f"{part!r} cannot be a part of a secret's name")
        return self._directory / reference.name / reference.key


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns
