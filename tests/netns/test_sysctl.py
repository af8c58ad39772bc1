"""Sysctls are those of the caller's namespace, and names cannot escape."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tortie.kernel import netns, sysctl
from tortie.lib.errors import InvalidInput, KernelRefused, NotFound


@pytest.fixture
def space() -> Iterator[int]:
    if os.geteuid() != 0:
        pytest.fail("needs root; run under `unshare --map-root-user --net`")
    handle = netns.create_anonymous()
    yield handle
    os.close(handle)


def ip(handle: int, *words: str) -> None:
    child = netns.spawn_in(handle, ["ip", *words])
    assert child.wait() == 0


def test_a_setting_counts_in_that_namespace_only(space: int) -> None:
    outside = sysctl.get_interface(4, "lo", "rp_filter")
    netns.run_in(space, lambda: sysctl.set_interface(4, "lo", "rp_filter", 2))

    assert netns.run_in(space, lambda: sysctl.get_interface(4, "lo", "rp_filter")) == "2"
    assert sysctl.get_interface(4, "lo", "rp_filter") == outside
    shown = netns.spawn_in(
        space, ["sysctl", "-n", "net.ipv4.conf.lo.rp_filter"], stdout=subprocess.PIPE
    )
    assert shown.communicate()[0] == b"2\n"


def test_an_interface_with_a_dot_is_not_another_one(space: int) -> None:
    ip(space, "link", "add", "name", "a", "type", "bridge")
    ip(space, "link", "add", "name", "a.b", "type", "bridge")

    def change() -> tuple[str, str]:
        sysctl.set_interface(4, "a.b", "proxy_arp", 1)
        return (
            sysctl.get_interface(4, "a.b", "proxy_arp"),
            sysctl.get_interface(4, "a", "proxy_arp"),
        )

    assert netns.run_in(space, change) == ("1", "0")


def test_both_families_and_the_neighbour_table(space: int) -> None:
    def change() -> tuple[str, str]:
        sysctl.set_interface(6, "lo", "accept_ra", 0)
        sysctl.set_interface(6, "lo", "proxy_delay", 0, table="neigh")
        return (
            sysctl.get_interface(6, "lo", "accept_ra"),
            sysctl.get_interface(6, "lo", "proxy_delay", table="neigh"),
        )

    assert netns.run_in(space, change) == ("0", "0")


def test_global_settings(space: int) -> None:
    def change() -> str:
        sysctl.set_global("ipv4/ip_forward", 1)
        return sysctl.get_global("ipv4/ip_forward")

    assert netns.run_in(space, change) == "1"


def test_what_does_not_exist_is_not_found(space: int) -> None:
    with pytest.raises(NotFound):
        sysctl.set_interface(4, "tnsxnever", "rp_filter", 1)
    with pytest.raises(NotFound):
        sysctl.get_interface(4, "lo", "tnsxnever")
    with pytest.raises(NotFound):
        sysctl.set_global("ipv4/tnsxnever", 1)


def test_a_refused_value_is_the_kernels_refusal(space: int) -> None:
    with pytest.raises(KernelRefused) as refused:
        netns.run_in(space, lambda: sysctl.set_interface(4, "lo", "rp_filter", "maybe"))
    assert "rp_filter" in str(refused.value)


@pytest.mark.parametrize(
    "interface",
    ["", ".", "..", "../all", "a/b", "a b", "a\n", "a:1", "a\0b", "sixteen-letters-", "é" * 8],
)
def test_interface_names_cannot_leave_their_directory(interface: str) -> None:
    with pytest.raises(InvalidInput):
        sysctl.get_interface(4, interface, "rp_filter")


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "../rp_filter", "a b", "A", "rp_filter\0"])
def test_keys_cannot_leave_their_directory(key: str) -> None:
    with pytest.raises(InvalidInput):
        sysctl.get_interface(4, "lo", key)


@pytest.mark.parametrize("path", ["", "/ipv4/ip_forward", "../kernel/hostname", "ipv4//x", "a/.."])
def test_global_paths_cannot_leave_net(path: str) -> None:
    with pytest.raises(InvalidInput):
        sysctl.get_global(path)


def test_the_longest_interface_name_is_taken() -> None:
    assert sysctl.check_interface_name("fifteen-letters") == "fifteen-letters"
