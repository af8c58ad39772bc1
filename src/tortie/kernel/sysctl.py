"""Network sysctls of the calling thread's namespace, through /proc/sys/net.

The kernel resolves /proc/sys/net by the namespace of the thread that opens
the file. For another namespace, call these inside `netns.run_in`.

Paths, never dotted names: an interface may be called `eth0.100`, and the
dotted form of its sysctl cannot tell that dot from a separator.
"""

import os
import re
from typing import Literal

from tortie.lib.errors import InvalidInput, NotFound, kernel_error

Family = Literal[4, 6]
Table = Literal["conf", "neigh"]

_ROOT = "/proc/sys/net"
_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*")
INTERFACE_NAME_MAX_BYTES = 15
"""IFNAMSIZ minus its NUL, from include/uapi/linux/if.h."""
_VALUE_MAX_BYTES = 4096


def set_interface(
    family: int, interface: str, key: str, value: int | str, *, table: Table = "conf"
) -> None:
    """Set a per-interface sysctl, such as `rp_filter` or `proxy_arp`.

    Args:
        family: 4 or 6.
        interface: a name, or the kernel's `all` and `default`.
        table: `conf`, or `neigh` for the neighbour table's settings.

    Raises:
        NotFound: no such interface in this namespace, or no such key.
        InvalidInput: a name that is not one.
        KernelRefused: the kernel does not take this value.
    """
    _write(_interface_path(family, interface, key, table), value)


def get_interface(family: int, interface: str, key: str, *, table: Table = "conf") -> str:
    """Read a per-interface sysctl; the text without its newline. Raises as the setter."""
    return _read(_interface_path(family, interface, key, table))


def set_global(path: str, value: int | str) -> None:
    """Set a sysctl of the namespace, named by its path below net: `ipv4/ip_forward`.

    Raises:
        NotFound: no such sysctl (a module may not be loaded, or it belongs to
            the first namespace only).
        InvalidInput: not a path of plain keys.
        KernelRefused: the kernel does not take this value.
    """
    _write(_global_path(path), value)


def get_global(path: str) -> str:
    """Read a sysctl by its path below net; the text without its newline."""
    return _read(_global_path(path))


def check_interface_name(name: str) -> str:
    """The name itself, if the kernel would take it for an interface.

    Raises:
        InvalidInput: empty, too long, `.` or `..`, or holding a slash, a
            colon, white space or NUL.

    Source: net/core/dev.c, dev_valid_name.
    """
    size = len(name.encode(errors="surrogateescape"))
    bad = (
        not 0 < size <= INTERFACE_NAME_MAX_BYTES
        or name in (".", "..")
        or any(c in "/:\0" or c.isspace() for c in name)
    )
    if bad:
        raise InvalidInput(f"{name!r} cannot be the name of an interface")
    return name


def _interface_path(family: int, interface: str, key: str, table: Table) -> str:
    if family not in (4, 6):
        raise InvalidInput(f"family {family} is neither 4 nor 6")
    if table not in ("conf", "neigh"):
        raise InvalidInput(f"{table!r} is no table of per-interface sysctls")
    return f"{_ROOT}/ipv{family}/{table}/{check_interface_name(interface)}/{_check_key(key)}"


def _global_path(path: str) -> str:
    return "/".join([_ROOT, *map(_check_key, path.split("/"))])


def _check_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise InvalidInput(f"{key!r} is no name of a sysctl")
    return key


def _write(path: str, value: int | str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, str(value).encode())
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise NotFound(f"there is no {path}") from None
    except OSError as error:
        raise kernel_error(f"write {value!r} to {path}", error.errno or 0) from error


def _read(path: str) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(handle, _VALUE_MAX_BYTES).decode().rstrip("\n")
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise NotFound(f"there is no {path}") from None
    except OSError as error:
        raise kernel_error(f"read {path}", error.errno or 0) from error
