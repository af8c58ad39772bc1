"""What systemd is told."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tortie.agent import keeper
from tortie.lib.supervisor import notify, watchdog_seconds


def listener(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.settimeout(10)
    made.bind(address)
    return made


@pytest.mark.parametrize("abstract", [False, True])
def test_states_arrive(tmp_path: Path, abstract: bool) -> None:
    name = f"tortie-{os.getpid()}"
    path = f"@{name}" if abstract else str(tmp_path / "notify")
    with listener(f"\0{name}" if abstract else path) as door:
        assert notify({"NOTIFY_SOCKET": path}, READY="1", STATUS="one\nWATCHDOG=trigger")
        assert door.recv(100) == b"READY=1\nSTATUS=one WATCHDOG=trigger"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_nobody_to_tell_is_no_error(address: str) -> None:
    assert not notify({"NOTIFY_SOCKET": address}, READY="1")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "180000000"}, 180.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_long_we_may_be_silent(variables: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(variables) == seconds


def test_the_keeper_says_when_it_answers(tmp_path: Path) -> None:
    with listener(str(tmp_path / "notify")) as door:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(keeper.__file__), str(tmp_path)],
            env={"NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert door.recv(100) == b"READY=1"
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
                asking.connect(str(tmp_path / keeper.SOCKET_NAME))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
