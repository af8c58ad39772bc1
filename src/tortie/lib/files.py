"""Files that others read while we write them."""

import contextlib
import os
from pathlib import Path

from tortie.lib.errors import Unavailable


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Put a file there in one step: who reads it gets the old one or the new one, whole.

    Raises:
        Unavailable: it cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Unavailable(f"{path}: {error.strerror}") from error
