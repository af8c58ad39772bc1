"""Puts the CNI plugins and a network's configuration where a runtime looks for them.

Every file is written beside its place, synced, and renamed into it: a runtime that starts the
plugin at that moment gets the old one or the new one, never half of one. The configuration
comes last, because a runtime that sees it starts the plugins.
"""

import math
import os
import re
import socket
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

SYSTEM_PERL = "/usr/bin/perl"
"""Starts faster still; part of every Debian."""

_CONSTANTS = ("SOCKET", "SPOOL", "RELEASE", "TIMEOUT_SECONDS")
_SHORT_CUT = Path(__file__).with_name("plugin.pl")

_COMPILE = """
import binascii, marshal, sys
code = compile(sys.stdin.read(), "plugin.py", "exec", optimize=2)
print(sys.implementation.cache_tag, binascii.b2a_base64(marshal.dumps(code)).decode())
"""
_SCRIPT = """\
#!{python} -IS
# Written by `tortie cni install`. SOURCE is what it does; CODE is the same, compiled, because
# compiling it at each start would take as long as half of the interpreter's own start. (As
# base64: a literal full of escapes takes longer to read than this to decode.)
import sys
from binascii import a2b_base64
from marshal import loads

SOURCE = {source!r}
CODE = {code!r}
exec(loads(a2b_base64(CODE)) if sys.implementation.cache_tag == {tag!r} else SOURCE)
"""


class Places(NamedTuple):
    """What the plugin is told about its agent."""

    socket: Path = Path(plugin.SOCKET)
    spool: Path = Path(plugin.SPOOL)
    python: str = ""
    """Interpreter; empty: the system's, or else ours."""
    perl: str = ""
    """Interpreter of the short cut; empty: the system's, if it has one; `none`: without."""
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
    """The plugin with its interpreters and its agent's places written in.

    Raises:
        InvalidInput: an interpreter does not start, or is too old.
    """
    source = Path(plugin.__file__).read_text(encoding="utf-8")
    values = (
        os.fspath(places.socket),
        os.fspath(places.spool),
        _release(),
        places.timeout_seconds,
    )
    for name, value in zip(_CONSTANTS, values, strict=True):
        source = _set(source, name, f"{name} = {value!r}")
    python = interpreter(places.python)
    tag, code = _compiled(python, source)
    perl = perl_interpreter(places.perl)
    if perl:
        return _with_short_cut(perl, python, places, source).encode()
    return _SCRIPT.format(python=python, source=source, code=code, tag=tag).encode()


def _with_short_cut(perl: str, python: str, places: Places, source: str) -> str:
    values: dict[str, str | int] = {
        "SOCKET": os.fspath(places.socket),
        "PYTHON": python,
        "TIMEOUT_SECONDS": math.ceil(places.timeout_seconds),
        "REQUEST_MAX_BYTES": plugin.REQUEST_MAX_BYTES,
        "AF_UNIX": int(socket.AF_UNIX),
        "SOCK_STREAM": int(socket.SOCK_STREAM),
        "O_PATH": os.O_PATH,
    }
    text = _SHORT_CUT.read_text(encoding="utf-8")
    for name, value in values.items():
        literal = str(value) if isinstance(value, int) else _perl_literal(value)
        text = _set(text, rf"my \${name}", f"my ${name} = {literal};")
    return f"#!{perl}\n{text}\n__END__\n{source}"


def _perl_literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _set(source: str, name: str, line: str) -> str:
    """`source` with its one assignment to `name` (a pattern) replaced."""
    source, count = re.subn(rf"^{name} = .*$", lambda _: line, source, flags=re.MULTILINE)
    assert count == 1, f"{name} is set once"
    return source


def _compiled(python: str, source: str) -> tuple[str, str]:
    """The interpreter's tag, and its code for `source` in base64."""
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


def perl_interpreter(asked: str = "") -> str:
    """Empty: do without.

    Raises:
        InvalidInput: it was asked for, and does not start.
    """
    if asked == "none":
        return ""
    perl = interpreter(asked or SYSTEM_PERL)
    try:
        subprocess.run(  # noqa: S603 - the interpreter that was asked for
            [perl, "-e", 'utf8::decode(my $text = "") or exit 1'], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        if not asked:
            return ""
        raise InvalidInput(f"interpreter {perl}: {error}") from error
    return perl


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
