"""Namespaces made here are those of `ip netns`, and nobody is left in one."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tortie.kernel import netns
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound

NAME = f"tnsx{os.getpid()}"


@pytest.fixture
def named() -> Iterator[str]:
    """Path of a namespace with the name NAME; needs the real root for its mount."""
    if os.geteuid() != 0:
        pytest.fail("needs root")
    with open("/proc/self/uid_map") as uid_map:
        if uid_map.read().split() != ["0", "0", "4294967295"]:
            pytest.skip("in a user namespace /run/netns is not ours to mount on")
    path = netns.create_named(NAME)
    yield path
    if os.path.exists(path):
        netns.delete_named(NAME)


@pytest.fixture
def space() -> Iterator[str]:
    """Path of a namespace without a name."""
    if os.geteuid() != 0:
        pytest.fail("needs root; run under `unshare --map-root-user --net`")
    handle = netns.create_anonymous()
    yield f"/proc/{os.getpid()}/fd/{handle}"
    os.close(handle)


def ip_netns_list() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    return [line.split()[0] for line in listed.stdout.splitlines()]


def test_a_named_namespace_is_one_of_ip_netns(named: str) -> None:
    assert NAME in ip_netns_list()
    assert NAME in netns.list_named()
    shown = subprocess.run(
        ["ip", "-n", NAME, "-br", "link"], check=True, capture_output=True, text=True
    )
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["lo"]


def test_delete_removes_the_name_for_everybody(named: str) -> None:
    netns.delete_named(NAME)

    assert NAME not in ip_netns_list()
    assert NAME not in netns.list_named()
    assert not os.path.exists(named)


def test_what_ip_netns_made_can_be_listed_and_deleted_here(named: str) -> None:
    subprocess.run(["ip", "netns", "add", f"{NAME}b"], check=True)
    assert f"{NAME}b" in netns.list_named()
    netns.delete_named(f"{NAME}b")
    assert f"{NAME}b" not in ip_netns_list()


def test_a_taken_name_is_refused_and_survives(named: str) -> None:
    before = netns.identity(named)
    with pytest.raises(AlreadyExists):
        netns.create_named(NAME)
    assert netns.identity(named) == before


def test_a_leftover_file_is_not_listed_and_can_be_deleted() -> None:
    path = netns.named_path(f"{NAME}c")
    os.makedirs(netns.NAMED_DIRECTORY, exist_ok=True)
    with open(path, "w"):
        pass
    assert f"{NAME}c" not in netns.list_named()
    netns.delete_named(f"{NAME}c")
    assert not os.path.exists(path)


def test_a_missing_name_is_not_found() -> None:
    with pytest.raises(NotFound):
        netns.delete_named(f"{NAME}-never")
    with pytest.raises(NotFound):
        netns.open_namespace(f"/run/netns/{NAME}-never")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "-h", "a b", "a\n", "x\0y"])
def test_names_that_could_leave_the_directory_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        netns.create_named(name)


def test_enter_changes_this_thread_only_and_comes_back(space: str) -> None:
    home, there = netns.identity(), netns.identity(space)
    seen_elsewhere: list[tuple[int, int]] = []
    assert home != there

    with netns.enter(space):
        assert netns.identity() == there
        other = threading.Thread(
            target=lambda: seen_elsewhere.append(netns.identity(f"/proc/{os.getpid()}/ns/net"))
        )
        other.start()
        other.join()

    assert netns.identity() == home
    assert len(seen_elsewhere) == 1


def test_enter_comes_back_after_an_exception(space: str) -> None:
    home = netns.identity()
    with pytest.raises(KeyError), netns.enter(space):
        raise KeyError("x")
    assert netns.identity() == home


def test_run_in_returns_and_raises_what_the_function_does(space: str) -> None:
    home = netns.identity()
    assert netns.run_in(space, netns.identity) == netns.identity(space)

    def fail() -> None:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        netns.run_in(space, fail)
    assert netns.identity() == home


def test_a_socket_opened_in_a_namespace_stays_there(space: str) -> None:
    assert netns.spawn_in(space, ["ip", "link", "set", "lo", "up"]).wait() == 0
    with netns.open_socket_in(space, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        with socket.socket() as outside, pytest.raises(OSError):
            outside.connect(("127.0.0.1", port))
        with netns.open_socket_in(space, socket.AF_INET) as inside:
            inside.connect(("127.0.0.1", port))


def test_a_child_starts_inside_and_keeps_the_mounts(space: str) -> None:
    child = netns.spawn_in(
        space, ["stat", "-L", "-c", "%d %i", "/proc/self/ns/net"], stdout=subprocess.PIPE
    )
    device, inode = child.communicate()[0].split()
    assert (int(device), int(inode)) == netns.identity(space)

    child = netns.spawn_in(space, ["readlink", "/proc/self/ns/mnt"], stdout=subprocess.PIPE)
    assert child.communicate()[0].decode().strip() == os.readlink("/proc/self/ns/mnt")


def test_an_anonymous_namespace_lives_as_long_as_its_descriptor() -> None:
    handle = netns.create_anonymous()
    try:
        assert netns.run_in(handle, netns.identity) == netns.identity(handle)
        assert netns.identity(handle) != netns.identity()
    finally:
        os.close(handle)


def test_only_network_namespaces_can_be_entered(tmp_path: object) -> None:
    fifo = f"{tmp_path}/fifo"
    os.mkfifo(fifo)
    started = time.monotonic()
    for path in (fifo, "/dev/null", "/etc/passwd", "/proc/self/ns/mnt", "/", "/run/netns"):
        with pytest.raises(InvalidInput):
            netns.open_namespace(path)
    assert time.monotonic() - started < 1, "opening a FIFO must not block"


def test_a_symbolic_link_to_a_namespace_is_fine(space: str, tmp_path: object) -> None:
    link = f"{tmp_path}/link"
    os.symlink(space, link)
    assert netns.identity(link) == netns.identity(space)


def test_no_descriptor_is_left_open(space: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with netns.enter(space):
            pass
        netns.run_in(space, lambda: None)
        netns.open_socket_in(space, socket.AF_INET).close()
        netns.identity(space)
        with pytest.raises(InvalidInput):
            netns.identity("/proc/self/ns/mnt")
    assert len(os.listdir("/proc/self/fd")) == before
