"""The keeper, as a real process."""

import os
import signal
import socket
import stat
from pathlib import Path

import pytest
from tests.netns.conftest import keepers

from tortie.agent import keeper
from tortie.agent.ownership import obtain
from tortie.lib.errors import AlreadyExists


def port_id(netlink: socket.socket) -> int:
    port: int = netlink.getsockname()[0]
    return port


def test_the_next_agent_gets_the_same_socket(run_directory: Path) -> None:
    first = obtain(run_directory)
    owner = port_id(first.netlink)
    first.close()
    second = obtain(run_directory)
    assert port_id(second.netlink) == owner
    second.close()
    assert len(keepers(run_directory)) == 1


def test_a_second_agent_is_refused_while_the_first_lives(run_directory: Path) -> None:
    first = obtain(run_directory)
    with pytest.raises(AlreadyExists, match=f"process {os.getpid()}"):
        obtain(run_directory)
    first.close()
    obtain(run_directory).close()


def test_a_killed_keeper_is_replaced(run_directory: Path) -> None:
    first = obtain(run_directory)
    owner = port_id(first.netlink)
    first.close()
    (pid,) = keepers(run_directory)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    second = obtain(run_directory)
    assert port_id(second.netlink) != owner or keepers(run_directory) != [pid]
    second.close()


def test_only_root_can_reach_it(run_directory: Path) -> None:
    obtain(run_directory).close()
    mode = stat.S_IMODE((run_directory / keeper.SOCKET_NAME).stat().st_mode)
    assert mode == 0o600
