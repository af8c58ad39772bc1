"""Network namespaces: make, name, enter, and start things inside them.

A namespace belongs to a *thread* (Linux keeps it per task), so everything
here that changes it does so either in a thread that ends right after, or in
a context manager that brings the thread back. Sockets and child processes
stay in the namespace where they were made, whatever their maker does next;
that is why a short-lived thread is enough to open a socket or to start a
process elsewhere, and why no `preexec_fn` is needed.

Python 3.11 has neither `os.setns` nor `os.unshare`; ctypes releases the GIL
around both, which matters because they wait for RCU (0.4 ms and more).

Names are compatible with `ip netns`: a file in `/run/netns` on which the
namespace is bind-mounted. Unlike `ip netns exec`, `spawn_in` changes nothing
but the network namespace: it leaves /sys (and so cgroups) as it is.

Needs CAP_SYS_ADMIN. Whose paths may be entered is the caller's decision;
here a path is only proved to lead to a network namespace and nothing else.
"""

import ctypes
import fcntl
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

from tortie.lib.errors import (
    AlreadyExists,
    InvalidInput,
    KernelRefused,
    NotFound,
    TortieError,
    kernel_error,
)

T = TypeVar("T")

NAMED_DIRECTORY = "/run/netns"
"""Where `ip netns` keeps its names; iproute2's NETNS_RUN_DIR."""

OWN = "/proc/thread-self/ns/net"
"""The calling thread's namespace. `/proc/self` would be the main thread's."""

_CLONE_NEWNET = 0x40000000
_NSFS_MAGIC = 0x6E736673
_NS_GET_NSTYPE = 0xB703
"""`_IO(0xb7, 0x3)`, include/uapi/linux/nsfs.h."""
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2
_STATFS_BYTES = 256
"""More than `struct statfs` of any architecture; its first word is the type."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,200}")

_libc = ctypes.CDLL(None, use_errno=True)


def create_named(name: str) -> str:
    """Make a namespace with a name, as `ip netns add` does; returns its path.

    Its loopback is down, as the kernel leaves it.

    Raises:
        AlreadyExists: the name is taken.
        InvalidInput: not a file name that `ip netns` would take.
        KernelRefused: no permission, or a limit on namespaces is reached.
    """
    path = named_path(name)
    _prepare_directory()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except FileExistsError:
        raise AlreadyExists(f"network namespace {name!r} exists") from None
    except OSError as error:
        raise kernel_error(f"create {path}", error.errno or 0) from error
    try:
        _in_new_thread(lambda: _unshare_onto(path))
    except BaseException:
        delete_named(name)
        raise
    return path


def delete_named(name: str) -> None:
    """Remove the name. The namespace goes with its last process and socket.

    A file that a crash left without a mount is removed too.

    Raises:
        NotFound: there is no such name.
    """
    path = named_path(name)
    if not os.path.lexists(path):
        raise NotFound(f"network namespace {name!r} does not exist")
    # EINVAL: nothing is mounted there; only the file is left to remove.
    with suppress(KernelRefused):
        _check(_libc.umount2(path.encode(), _MNT_DETACH), f"umount {path}")
    try:
        os.unlink(path)
    except OSError as error:
        raise kernel_error(f"unlink {path}", error.errno or 0) from error


def list_named() -> list[str]:
    """Names of living namespaces, sorted; leftover files are not listed."""
    return [name for name in _names() if is_namespace(f"{NAMED_DIRECTORY}/{name}")]


def list_leftovers() -> list[str]:
    """Names that have a file and no namespace, as a crash between the two leaves them."""
    return [name for name in _names() if not is_namespace(f"{NAMED_DIRECTORY}/{name}")]


def _names() -> list[str]:
    try:
        return sorted(os.listdir(NAMED_DIRECTORY))
    except FileNotFoundError:
        return []


def named_path(name: str) -> str:
    """
    Raises:
        InvalidInput: the name could leave `/run/netns` or be taken for an option.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} cannot name a network namespace")
    return f"{NAMED_DIRECTORY}/{name}"


def create_anonymous() -> int:
    """Make a namespace without a name; returns a descriptor that keeps it alive.

    The kernel frees it with the last descriptor, process or socket of it, so
    there is nothing to clean up after a crash. The caller closes it.
    """

    def make() -> int:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)

    return _in_new_thread(make)


def open_namespace(path: str | int) -> int:
    """A descriptor of the namespace at `path`, proved to be a network namespace.

    The path is first opened with O_PATH, which has no side effects on what
    it leads to (a FIFO or a device would block or act), then checked, then
    opened through that same descriptor: what was checked is what is used.

    Args:
        path: a path, symbolic links allowed (`/var/run`, `/proc/PID/ns/net`),
            or a descriptor of a namespace, which is duplicated.

    Returns:
        A new descriptor, close-on-exec; the caller closes it.

    Raises:
        NotFound: nothing there.
        InvalidInput: something else than a network namespace.
    """
    if isinstance(path, int):
        handle = os.dup(path)
    else:
        if "\0" in path:
            raise InvalidInput("a path cannot hold NUL")
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no network namespace at {path!r}") from None
        except OSError as error:
            raise kernel_error(f"open {path}", error.errno or 0) from error
    try:
        if _filesystem_type(handle) != _NSFS_MAGIC:
            raise InvalidInput(f"{path!r} is not a namespace")
        opened = os.open(f"/proc/thread-self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(handle)
    if fcntl.ioctl(opened, _NS_GET_NSTYPE) != _CLONE_NEWNET:
        os.close(opened)
        raise InvalidInput(f"{path!r} is a namespace of another kind, not of the network")
    return opened


def identity(path: str | int = OWN) -> tuple[int, int]:
    """Device and inode: equal for two paths exactly if they are one namespace."""
    handle = open_namespace(path)
    try:
        return held_identity(handle)
    finally:
        os.close(handle)


def held_identity(descriptor: int) -> tuple[int, int]:
    """`identity` of what `open_namespace` has opened."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@contextmanager
def enter(path: str | int) -> Iterator[None]:
    """Put the calling thread into a namespace, and back at the end.

    Not for the agent's loop thread: everything it does meanwhile, in other
    coroutines too, would happen in there. Use `run_in` or `open_socket_in`.
    """
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = open_namespace(path)
        try:
            _check(_libc.setns(target, _CLONE_NEWNET), f"setns {path}")
        finally:
            os.close(target)
        try:
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET), "setns back")
    finally:
        os.close(home)


def move_to(descriptor: int) -> None:
    """Move the calling thread into a namespace, for good.

    For a process of one thread that does nothing else; all others: `enter` and `run_in`.

    Args:
        descriptor: as of `open_namespace`.
    """
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


def run_in(path: str | int, function: Callable[[], T]) -> T:
    """Call `function` in a namespace, in a thread of its own; blocks for it.

    Returns what it returns and raises what it raises. The thread ends with
    the call, so that no thread is ever left in a foreign namespace.
    """
    target = open_namespace(path)

    def call() -> T:
        _check(_libc.setns(target, _CLONE_NEWNET), f"setns {path}")
        return function()

    try:
        return _in_new_thread(call)
    finally:
        os.close(target)


def open_socket_in(
    path: str | int, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> socket.socket:
    """A socket that lives in the namespace at `path`; the caller's thread stays out."""
    return run_in(path, lambda: socket.socket(family, kind, protocol))


def spawn_in(
    path: str | int,
    argv: Sequence[str],
    *,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    own_session: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start a child process inside a namespace; the caller waits for it and ends it.

    A child inherits the namespace of the thread that forks it, so nothing
    runs between fork and exec. Only the network namespace differs from the
    caller's: mounts, users and cgroups are the same.

    Args:
        argv: program and arguments; no shell.
        own_session: lead a new session, out of reach of the terminal's signals.
    """
    return run_in(
        path,
        lambda: subprocess.Popen(  # noqa: S603 - the caller's own argv, no shell
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            start_new_session=own_session,
        ),
    )


def _in_new_thread(function: Callable[[], T]) -> T:
    outcome: list[T] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller as it is
            failure.append(error)

    thread = threading.Thread(target=call, name="netns", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        # Interrupted: what it does must not go on behind the caller's clean-up.
        thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]


def _unshare_onto(path: str) -> None:
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")
    _mount(OWN, path, _MS_BIND)


def _prepare_directory() -> None:
    """Make `/run/netns` a shared mount, so that all mount namespaces see new names.

    Without it a process with mounts of its own keeps deleted namespaces alive
    and never sees those made later. The first caller binds it onto itself.
    """
    try:
        os.makedirs(NAMED_DIRECTORY, mode=0o755, exist_ok=True)
    except OSError as error:
        raise kernel_error(f"create {NAMED_DIRECTORY}", error.errno or 0) from error
    try:
        _mount("", NAMED_DIRECTORY, _MS_SHARED | _MS_REC)
    except KernelRefused:  # EINVAL: not a mount point yet
        _mount(NAMED_DIRECTORY, NAMED_DIRECTORY, _MS_BIND | _MS_REC)
        _mount("", NAMED_DIRECTORY, _MS_SHARED | _MS_REC)


def _mount(source: str, target: str, flags: int) -> None:
    code = _libc.mount(source.encode(), target.encode(), b"none", ctypes.c_ulong(flags), None)
    _check(code, f"mount {target}")


def is_namespace(path: str) -> bool:
    """Whether a network namespace is there, as we see it."""
    try:
        os.close(open_namespace(path))
    except TortieError:
        return False
    return True


def _filesystem_type(handle: int) -> int:
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    _check(_libc.fstatfs(handle, buffer), "fstatfs")
    return ctypes.c_long.from_buffer(buffer).value


def _check(code: int, operation: str) -> None:
    if code != 0:
        raise kernel_error(operation, ctypes.get_errno())
