"""How we show who we are and learn who the server is: PEM in files, or as text."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tortie.lib.errors import Denied, InvalidInput


class TLSFiles(NamedTuple):
    """PEM files; None means the system's authorities, or no client certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class TLSText(NamedTuple):
    """The same as text, from a configuration file that has it inline; empty for what is not."""

    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __repr__(self) -> str:
        given = [name for name, value in zip(self._fields, self, strict=True) if value]
        return f"TLSText({', '.join(f'{name}=…' for name in given)})"


def client_context(given: TLSFiles | TLSText) -> ssl.SSLContext:
    """TLS 1.2 or newer, the server's name or address verified. Files are read anew.

    Raises:
        InvalidInput: a file is missing, or something is no PEM.
        Denied: a file must not be read.
    """
    context = _of_files(given) if isinstance(given, TLSFiles) else _of_text(given)
    context.set_alpn_protocols(["h2"])
    return context


def _of_files(files: TLSFiles) -> ssl.SSLContext:
    for path in filter(None, files):
        try:
            path.open("rb").close()
        except PermissionError:
            raise Denied(f"no permission to read {path}") from None
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=files.ca)
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as error:
        names = ", ".join(str(path) for path in files if path is not None)
        raise InvalidInput(f"TLS files {names}: {error.reason or error}") from None
    return context


def _of_text(text: TLSText) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=text.ca or None)
    except ssl.SSLError as error:
        raise InvalidInput(f"etcdCACert is not PEM: {error.reason or error}") from None
    if text.certificate:
        try:
            with _in_memory(f"{text.certificate}\n{text.key}") as path:
                context.load_cert_chain(path)
        except ssl.SSLError as error:
            reason = error.reason or error
            raise InvalidInput(f"etcdCert and etcdKey are no PEM that fits: {reason}") from None
    return context


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A file that is on no disk: OpenSSL reads certificates of clients from files only."""
    descriptor = os.memfd_create("pem")
    try:
        with open(descriptor, "w", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
