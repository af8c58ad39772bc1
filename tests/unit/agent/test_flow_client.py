"""Asking for flows: which are shown, how, and what is said when nobody answers."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tortie.agent import flow_view
from tortie.agent.flow_client import make_wanted, show
from tortie.agent.flow_record import Decided, Greeting, Record
from tortie.agent.flow_server import FlowServer
from tortie.agent.flow_view import merged, remarks
from tortie.lib.errors import InvalidInput, TortieError, Unavailable


def record(**fields: object) -> Record:
    known: dict[str, object] = {
        "verdict": "Deny",
        "direction": "ingress",
        "source": "default/cat",
        "destination": "default/web",
        "family": 4,
        "protocol": "tcp",
        "port": 80,
        "decided": {"tier": "default", "policy": "NetworkPolicy(default/web)", "rule": 1},
        "packets": 1,
        "bytes": 60,
        "start": 10.0,
        "end": 11.0,
    }
    return msgspec.convert(known | fields, Record)


@pytest.mark.parametrize(
    ("options", "is_taken"),
    [
        ({}, True),
        ({"verdict": "deny"}, True),
        ({"verdict": "allow"}, False),
        ({"sources": ["default/cat"]}, True),
        ({"sources": ["cat"]}, True),
        ({"sources": ["at"]}, False),
        ({"sources": ["dog", "cat"]}, True),
        ({"destinations": ["cat"]}, False),
        ({"sources": ["10.0.0.0/8"]}, False),
        ({"ports": ["80"]}, True),
        ({"ports": ["tcp/80"]}, True),
        ({"ports": ["udp/80"]}, False),
        ({"ports": ["TCP"]}, True),
        ({"ports": ["8"]}, False),
    ],
)
def test_which_are_shown(options: dict[str, object], is_taken: bool) -> None:
    assert make_wanted(**options).takes(record()) == is_taken  # type: ignore[arg-type]


def test_ends_without_a_name_go_by_address() -> None:
    outside = record(source="192.0.2.7")
    assert make_wanted(sources=["192.0.2.7"]).takes(outside)
    assert make_wanted(sources=["192.0.2.0/24"]).takes(outside)
    assert not make_wanted(sources=["192.0.3.0/24"]).takes(outside)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"since": "5"}, "--since 5: must be a time such as 90s"),
        ({"since": "1d"}, "--since 1d"),
        ({"verdict": "maybe"}, "must be allow or deny"),
        ({"output": "yaml"}, "-o yaml: must be wide or json"),
        ({"ports": ["a b"]}, "--port a b"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        make_wanted(**options)  # type: ignore[arg-type]


def test_windows_of_one_flow_are_added_up() -> None:
    found = merged([record(), record(start=70.0, end=71.0, packets=2), record(port=81, end=5.0)])
    assert [(one.port, one.packets, one.start, one.end) for one in found] == [
        (81, 1, 10.0, 5.0),
        (80, 3, 10.0, 71.0),
    ]


@pytest.mark.parametrize(
    ("decided", "text"),
    [
        (Decided("default", "NetworkPolicy(a/b)", 0), "default: NetworkPolicy(a/b) ingress[0]"),
        (Decided("", "Profile(kns.a)", 2), "Profile(kns.a) ingress[2]"),
        (Decided("default", reason="end of tier"), "default: end of tier"),
        (Decided(reason="encapsulated"), "encapsulated"),
        (Decided("t", "NetworkPolicy(a/b)", None, "is gone"), "t: NetworkPolicy(a/b) is gone"),
    ],
)
def test_what_decided_in_words(decided: Decided, text: str) -> None:
    assert flow_view.decided_text(decided, "ingress") == text


def test_what_is_missing_is_said() -> None:
    greeting = Greeting(host="h", sees="all", lost=3, beyond_limit={"denied-ingress": 7, "x-y": 0})
    assert list(remarks(greeting)) == [
        "3 logged packets were lost",
        "7 packets that were denied (ingress) are missing: the kernel logs only so many a second",
    ]


def test_no_agent_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no agent answers at .*start it with `tortie agent`"):
        show({"": tmp_path / "flows.sock"}, make_wanted(), print, print)


def serve_while(path: Path, greeting: Greeting, act: Callable[[], None]) -> None:
    """A server where nothing is logged."""

    async def greet() -> Greeting:
        return greeting

    async def run() -> None:
        server = FlowServer(path, None, greet)
        await server.start()
        try:
            await asyncio.to_thread(act)
        finally:
            await server.close()

    asyncio.run(run())


def test_one_agent_of_two_is_better_than_none(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    out: list[str] = []
    err: list[str] = []
    codes = []
    paths = {"h1": tmp_path / "flows.sock", "h2": tmp_path / "away.sock"}

    def act() -> None:
        assert paths["h1"].stat().st_mode & 0o777 == 0o600
        codes.append(show(paths, make_wanted(), out.append, err.append))

    serve_while(paths["h1"], Greeting(host="h1", sees="nothing", why="it is off"), act)
    assert codes == [1]
    assert out == ["   ".join(flow_view.WIDE_TITLES)]
    assert err[0].startswith("h2: no agent answers")
    assert err[1:] == ["h1: packets are not logged: it is off"]
    assert not paths["h1"].exists()


def test_following_ends_with_the_agent(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "flows.sock"
    err: list[str] = []
    codes = []
    asking = threading.Thread(
        target=lambda: codes.append(
            show({"": path}, make_wanted(follow=True), lambda _: None, err.append)
        )
    )

    def act() -> None:
        asking.start()
        time.sleep(0.3)
        assert asking.is_alive()

    serve_while(path, Greeting(host="h1", sees="all"), act)
    asking.join(5)
    assert codes == [1]
    assert err == ["h1: the agent has ended; ask again when it is back"]


@pytest.mark.parametrize(
    "question", [b"x\n", b'{"since": "now"}\n', b'{"all": true}\n', b"[]\n", b"x" * 5000, b"\n"]
)
def test_nonsense_is_answered_with_an_error(tmp_path: Path, question: bytes) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "flows.sock"

    def act() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            sock.sendall(question)
            assert b'"error"' in sock.recv(4096)

    serve_while(path, Greeting(host="h", sees="nothing"), act)


def test_another_service_is_not_taken_for_an_agent(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"220 hello\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(TortieError, match="does not speak of flows"):
            show({"": path}, make_wanted(), print, print)
