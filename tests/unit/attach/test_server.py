"""The service and its client: who may talk to it, and how it answers."""

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.attach.bench import Bench

from tortie.attach import server as service
from tortie.attach.client import Client
from tortie.attach.requests import REQUEST_MAX_BYTES
from tortie.attach.server import Server
from tortie.lib.errors import (
    AlreadyExists,
    Denied,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)
from tortie.lib.unix_socket import bind

NOBODY = 65534


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "attach.sock"


@pytest.fixture
def running(bench: Bench, path: Path) -> Iterator[Path]:
    """The service in a loop of its own thread."""
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        await Server(bench.host(), path).run()

    task = loop.create_task(serve())
    started = threading.Event()
    loop.call_later(0.05, started.set)
    thread = threading.Thread(target=lambda: _run_until_done(loop, task))
    thread.start()
    assert started.wait(5)
    yield path
    loop.call_soon_threadsafe(task.cancel)
    thread.join(5)
    assert not thread.is_alive()
    assert not path.exists(), "the socket is removed at the end"


def _run_until_done(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    finally:
        loop.close()


WEB: dict[str, Any] = {"namespace": "prod", "workload": "web"}


def test_the_whole_life_of_a_workload(running: Path, bench: Bench) -> None:
    with Client(running) as client:
        found = client.add(**WEB, netns="/run/netns/web", families=[4, 6])
        assert len(found["addresses"]) == 2
        assert found["timings"]["enforced"] >= 0
        assert [workload["key"]["workload"] for workload in client.list()] == ["web"]
        assert client.check(**WEB) == []
        assert client.remove(**WEB) == {"found": True, "pending": False}
        assert client.remove(**WEB)["found"] is False
    assert bench.left_overs() == []


def test_errors_keep_their_class_and_words(running: Path, bench: Bench) -> None:
    with Client(running) as client:
        with pytest.raises(NotFound, match="not attached to host h1"):
            client.check(**WEB)
        with pytest.raises(InvalidInput, match="namespace is 'X'"):
            client.remove(namespace="X", workload="web")
        bench.wait_error = Unavailable("nft is busy")
        with pytest.raises(Unavailable, match="nft is busy"):
            client.add(**WEB, netns="/run/netns/web")
        assert client.list() == []


def test_a_bug_is_an_answer_not_a_silence(running: Path, bench: Bench) -> None:
    bench.steps.fail_at(1, "before", ZeroDivisionError("bug"))
    with Client(running) as client, pytest.raises(Unavailable, match="internal error"):
        client.add(**WEB, netns="/run/netns/web")


def test_many_clients_at_once(running: Path, bench: Bench) -> None:
    interfaces: list[str] = []

    def one(number: int) -> None:
        with Client(running) as client:
            found = client.add(namespace="prod", workload=f"w{number}", netns=f"/netns/{number}")
            interfaces.append(found["interface"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(interfaces)) == 12
    assert len(set(bench.addresses())) == 12


def test_only_the_owner_can_reach_the_socket(running: Path) -> None:
    assert stat.S_IMODE(running.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.parent.stat().st_mode) == 0o700


def test_the_socket_is_never_open_to_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is right from the moment it exists, not after a chmod."""
    monkeypatch.setattr(os, "chmod", None)
    before = os.umask(0)
    try:
        bind(path).close()
        assert os.umask(0) == 0, "the umask is put back"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A place where other users can get, unlike the test's own directories."""
    if os.geteuid() != 0:
        pytest.fail("needs root, to be somebody else")
    top = Path(tempfile.mkdtemp(prefix="attach-"))
    top.chmod(0o711)
    yield top / "run" / "attach.sock"
    shutil.rmtree(top)


def test_another_user_is_refused(bench: Bench, reachable: Path) -> None:
    """Even one that got past the file's mode: the kernel says who is calling."""

    async def go() -> bytes:
        task = asyncio.create_task(Server(bench.host(), reachable).run())
        await asyncio.sleep(0.05)
        reachable.parent.chmod(0o711)
        reachable.chmod(0o666)
        answer = await asyncio.to_thread(call_as_nobody, reachable)
        task.cancel()
        return answer

    assert asyncio.run(go()).decode() == f"Denied: user {NOBODY} may not attach workloads; root may"


def call_as_nobody(path: Path) -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                with Client(path) as client:
                    client.list()
            except TortieError as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        found = answer.read()
    os.waitpid(child, 0)
    return found


def test_a_request_that_is_too_long(running: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(running))
        sock.settimeout(5)
        sock.sendall(b'{"call":"list","x":"' + b"x" * (REQUEST_MAX_BYTES + 1))
        said = json.loads(sock.recv(4096))["error"]
    assert said["kind"] == "InvalidInput"
    assert f"{REQUEST_MAX_BYTES} bytes" in said["message"]


def test_garbage_is_answered_and_the_next_request_too(running: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(running))
        sock.settimeout(5)
        lines = sock.makefile("rb")
        sock.sendall(b'nonsense\n{"call":"list"}\n')
        assert json.loads(lines.readline())["error"]["kind"] == "InvalidInput"
        assert json.loads(lines.readline()) == {"result": {"workloads": []}}


def test_a_silent_client_is_let_go(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "IDLE_SECONDS", 0.05)

    async def go() -> None:
        task = asyncio.create_task(Server(bench.host(), path).run())
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"call":')
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()
        task.cancel()

    asyncio.run(go())


def test_a_client_that_goes_away_does_not_stop_what_it_began(running: Path, bench: Bench) -> None:
    release = threading.Event()

    async def wait(revision: int, timeout_seconds: float) -> None:
        await asyncio.to_thread(release.wait, 5)

    bench.on_wait = wait
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(running))
        add = {"call": "add", **WEB, "netns": "/run/netns/web"}
        sock.sendall(json.dumps(add).encode() + b"\n")
        while not bench.endpoints():
            pass
    release.set()
    with Client(running) as client:
        assert client.add(**WEB, netns="/run/netns/web")["addresses"]
        assert len(client.list()) == 1


def test_a_second_service_is_refused(running: Path) -> None:
    with pytest.raises(AlreadyExists, match="another process listens"):
        bind(running)


def test_a_socket_left_by_a_crash_is_replaced(path: Path) -> None:
    bind(path).close()
    bind(path).close()


def test_places_that_are_not_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir(mode=0o700)
    (tmp_path / "file" / "attach.sock").write_text("precious")
    with pytest.raises(Denied, match="not our socket"):
        bind(tmp_path / "file" / "attach.sock")
    assert (tmp_path / "file" / "attach.sock").read_text() == "precious"
    bind(tmp_path / "file" / "other.sock").close()
    os.chown(tmp_path / "file" / "other.sock", NOBODY, NOBODY)
    with pytest.raises(Denied, match="not our socket"):
        bind(tmp_path / "file" / "other.sock")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(Denied, match="mode 0700"):
        bind(tmp_path / "open" / "attach.sock")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(Denied, match="must be a directory"):
        bind(tmp_path / "link" / "attach.sock")


def test_no_service(tmp_path: Path) -> None:
    with Client(tmp_path / "none") as client, pytest.raises(Unavailable, match="start it with"):
        client.list()
    bind(tmp_path / "run" / "dead").close()
    with Client(tmp_path / "run" / "dead") as client, pytest.raises(Unavailable, match="no agent"):
        client.list()


def test_the_client_imports_nothing_heavy() -> None:
    probe = "import sys, tortie.attach.client; print({'msgspec', 'asyncio'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert found.stdout == "set()\n", found.stderr


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot listen at"):
        bind(tmp_path / "run" / ("x" * 200))
