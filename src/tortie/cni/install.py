"""Puts the CNI plugins and a network's configuration where a runtime looks for them.

Every file is written beside its place, synced, and renamed into it: a runtime that starts the
plugin at that moment gets the old one or the new one, never half of one. The configuration
comes last, because a runtime that sees it starts the plugins.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from tortie.attach.cni.conflist import check_conflist
from tortie.cni import plugin
from tortie.lib.errors import InvalidInput, Unavailable
from tortie.lib.files import replace_file

NAMES = ("tortie", "tortie-ipam", "calico", "calico-ipam")
"""Existing configurations name the last two."""

CONFLIST = "10-tortie.conflist"
SYSTEM_PYTHON = "/usr/bin/python3"
"""Starts fastest on Debian, and outlives the virtual environment that installs."""

_CONSTANTS = ("SOCKET", "SPOOL", "RELEASE", "TIMEOUT_SECONDS")

_COMPILE = (
    "import sys, marshal; text = sys.stdin.read();"
    "print(sys.implementation.cache_tag, marshal.dumps(compile(text, 'plugin.py', 'exec')))"
)
_SCRIPT = """\
#!{python} -IS
# Written by `tortie cni install`. SOURCE is what it does; CODE is the same, compiled, because
# compiling it at each start would take as long as half of the interpreter's own start.
import marshal
import sys

SOURCE = {source!r}
CODE = {code}
exec(marshal.loads(CODE) if sys.implementation.cache_tag == {tag!r} else SOURCE)
"""


class Places(NamedTuple):
    """What the plugin is told about its agent."""

    socket: Path = Path(plugin.SOCKET)
    spool: Path = Path(plugin.SPOOL)
    python: str = ""
    """Interpreter; empty: the system's, or else ours."""
    timeout_seconds: float = plugin.TIMEOUT_SECONDS
    """How long it waits for an answer."""


def install(bin_dir: Path, conf_dir: Path | None, places: Places, conflist: bytes) -> list[Path]:
    """Write plugins, then the configuration; returns what was written.

    Args:
        conf_dir: None: plugins only.

    Raises:
        InvalidInput: the configuration is none, or a path cannot stand in the script.
        Unavailable: a file cannot be written.
    """
    check_conflist(conflist)
    text = script(places)
    written = []
    for name in NAMES:
        replace_file(bin_dir / name, text, 0o755)
        written.append(bin_dir / name)
    if conf_dir is not None:
        replace_file(conf_dir / CONFLIST, conflist, 0o600)
        written.append(conf_dir / CONFLIST)
    return written


def uninstall(bin_dir: Path, conf_dir: Path | None) -> list[Path]:
    """Remove the configuration, then those plugins that are ours."""
    wanted = [conf_dir / CONFLIST] if conf_dir is not None else []
    wanted += [path for name in NAMES if _is_ours(path := bin_dir / name)]
    removed = []
    for path in wanted:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from error
        removed.append(path)
    return removed


def script(places: Places) -> bytes:
    """The plugin with its interpreter and its agent's places written in.

    Raises:
        InvalidInput: the interpreter does not start, or is too old.
    """
    source = Path(plugin.__file__).read_text(encoding="utf-8")
    values = (
        os.fspath(places.socket),
        os.fspath(places.spool),
        _release(),
        places.timeout_seconds,
    )
    for name, value in zip(_CONSTANTS, values, strict=True):
        line = f"{name} = {value!r}".replace("\\", r"\\")  # it is a template there
        source, count = re.subn(f"^{name} = .*$", line, source, flags=re.MULTILINE)
        assert count == 1, f"plugin.py sets {name} once"
    python = interpreter(places.python)
    tag, code = _compiled(python, source)
    return _SCRIPT.format(python=python, source=source, code=code, tag=tag).encode()


def _compiled(python: str, source: str) -> tuple[str, str]:
    """The interpreter's tag, and its code for `source` as a literal of bytes."""
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that was asked for
            [python, "-IS", "-c", _COMPILE],
            input=source,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise InvalidInput(f"interpreter {python}: {error}") from error
    tag, space, code = done.stdout.strip().partition(" ")
    if not space:
        raise InvalidInput(f"{python} is no Python interpreter")
    return tag, code


def interpreter(asked: str = "") -> str:
    """
    Raises:
        InvalidInput: not an absolute path that a `#!` line can hold.
    """
    if not asked:
        base: str = getattr(sys, "_base_executable", sys.executable)
        asked = SYSTEM_PYTHON if os.access(SYSTEM_PYTHON, os.X_OK) else base
    if not asked.startswith("/") or any(c.isspace() for c in asked) or len(asked) > 240:
        raise InvalidInput(f"interpreter {asked!r} must be an absolute path without spaces")
    return asked


def _is_ours(path: Path) -> bool:
    try:
        return b"attach/requests.py" in path.read_bytes()
    except OSError:
        return False


def _release() -> str:
    try:
        return version("tortie")
    except PackageNotFoundError:
        return plugin.RELEASE
