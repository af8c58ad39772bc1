"""The client of etcd's JSON gateway, against a real etcd."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from tests.datastore.credentials import etcdctl, make_authority, make_certificate
from tests.datastore.etcd_server import EtcdServer, Start, free_ports, start

from tortie.datastore.client import Compare, Delete, Get, Put, Txn, absent, unchanged, value_is
from tortie.lib.errors import Compacted, Denied, InvalidInput, NotFound, Unavailable
from tortie.openstack.gateway import Gateway, Login
from tortie.openstack.settings import Settings

__all__ = ["start"]


def put(gateway: Gateway, key: str, value: bytes, lease: int = 0) -> int:
    return gateway.transact(Txn(success=[Put(key, value, lease)])).revision


def wait_until(holds: Callable[[], bool], patience_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + patience_seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def test_values_are_bytes_and_keys_text(gateway: Gateway, settings: Settings) -> None:
    key = f"/{settings.region}/ä b/\udcff"
    value = bytes(range(256))
    revision = put(gateway, key, value)
    entry = gateway.get(key)
    assert entry is not None
    assert (entry.key, entry.value, entry.mod_revision, entry.version) == (key, value, revision, 1)
    assert gateway.get(key + "x") is None
    assert gateway.get_all([key + "x", key]) == [None, entry]


def test_every_compare_of_etcd(gateway: Gateway, settings: Settings) -> None:
    """Each target and operator, true and false, as etcd itself judges them."""
    key = f"/{settings.region}/k"
    assert gateway.transact(Txn([absent(key)], [Put(key, b"5")])).succeeded
    entry = gateway.get(key)
    assert entry is not None
    facts: dict[str, int | bytes] = {
        "version": 1, "lease": 0, "value": b"5",
        "mod_revision": entry.mod_revision, "create_revision": entry.create_revision,
    }  # fmt: skip
    for target, fact in facts.items():
        other = b"6" if isinstance(fact, bytes) else fact + 1
        for operator, operand, expected in (
            ("==", fact, True), ("==", other, False), ("!=", fact, False), ("!=", other, True),
            ("<", other, True), ("<", fact, False), (">", fact, False),
        ):  # fmt: skip
            compare = Compare(key, target, operator, operand)  # type: ignore[arg-type]
            assert gateway.transact(Txn([compare])).succeeded is expected, compare


def test_a_transaction_answers_in_order(gateway: Gateway, settings: Settings) -> None:
    one, two = f"/{settings.region}/1", f"/{settings.region}/2"
    put(gateway, one, b"1")
    txn = Txn([unchanged(two, 0)], [Get(one), Put(two, b"2"), Get(two), Delete(one)], [Get(two)])
    first = gateway.transact(txn)
    assert first.succeeded
    assert [r.entry and r.entry.value for r in first.responses] == [b"1", None, b"2", None]
    assert first.responses[3].deleted == 1
    second = gateway.transact(txn)
    assert not second.succeeded
    assert [r.entry and r.entry.value for r in second.responses] == [b"2"]
    assert not gateway.transact(Txn([value_is(two, b"x")], [Put(two, b"y")])).succeeded


def test_pages_are_of_one_revision(gateway: Gateway, settings: Settings) -> None:
    """What is written while it lists is not seen, wherever it sorts."""
    prefix = f"/{settings.region}/"
    names = [f"{prefix}{number:05d}" for number in range(2300)]
    for start_at in range(0, len(names), 100):
        gateway.transact(Txn(success=[Put(name, b"v") for name in names[start_at:][:100]]))
    put(gateway, f"/{settings.region}0", b"behind the prefix")
    seen: list[str] = []
    for page in gateway.pages(prefix):
        put(gateway, f"{prefix}99999", b"new")
        gateway.transact(Txn(success=[Delete(names[-1])]))
        seen += [entry.key for entry in page.entries]
    assert seen == names
    assert [page.entries[0].value for page in gateway.pages(prefix, keys_only=True)] == [b""] * 3
    assert [list(page.entries) for page in gateway.pages(f"{prefix}none/")] == [[]]


def test_leases(gateway: Gateway, settings: Settings) -> None:
    key = f"/{settings.region}/leased"
    lease = gateway.grant(600)
    put(gateway, key, b"", lease)
    entry = gateway.get(key)
    assert entry is not None
    assert entry.lease == lease
    assert gateway.keep_alive(lease) == 600
    assert gateway.transact(Txn([Compare(key, "lease", "==", lease)])).succeeded
    gateway.revoke(lease)
    gateway.revoke(lease)
    assert gateway.get(key) is None
    assert gateway.keep_alive(lease) == 0
    with pytest.raises(NotFound):
        put(gateway, key, b"", lease)


def test_compaction(gateway: Gateway, settings: Settings) -> None:
    old = put(gateway, f"/{settings.region}/a", b"1")
    new = put(gateway, f"/{settings.region}/a", b"2")
    gateway.compact(new)
    gateway.compact(old)  # done already
    assert gateway.revision() == new
    with pytest.raises(Compacted):
        list(gateway.watch("/", old))


def test_watch_gives_changes_in_order_and_ends_when_closed(
    gateway: Gateway, settings: Settings
) -> None:
    prefix = f"/{settings.region}/"
    start_at = put(gateway, f"{prefix}a", b"1")
    watch = gateway.watch(prefix, start_at)
    seen: list[tuple[str, bytes | None]] = []

    def follow() -> None:
        for batch in watch:
            seen.extend((event.key.removeprefix(prefix), event.value) for event in batch.events)

    thread = threading.Thread(target=follow)
    thread.start()
    gateway.transact(Txn(success=[Put(f"{prefix}b", b"2"), Delete(f"{prefix}a")]))
    put(gateway, f"/{settings.region}0", b"other")
    put(gateway, f"{prefix}c", b"\xff")
    wait_until(lambda: len(seen) == 4)
    assert seen[0] == ("a", b"1")
    assert set(seen[1:3]) == {("b", b"2"), ("a", None)}
    assert seen[3] == ("c", b"\xff")
    watch.close()
    thread.join(10)
    assert not thread.is_alive()


def test_too_much_for_a_transaction_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    with pytest.raises(InvalidInput, match="129 operations"):
        gateway.transact(Txn(success=[Put(f"/x/{n}", b"") for n in range(129)]))


def test_many_threads_share_a_client_and_few_connections(
    gateway: Gateway, settings: Settings, server: EtcdServer
) -> None:
    def work(number: int) -> None:
        for turn in range(10):
            key = f"/{settings.region}/{number}"
            put(gateway, key, f"{number}.{turn}".encode())
            entry = gateway.get(key)
            assert entry is not None
            assert entry.value == f"{number}.{turn}".encode()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    sockets = [fd for fd in Path("/proc/self/fd").iterdir() if _is_to(fd, server.client_port)]
    assert 1 <= len(sockets) <= 16


def _is_to(descriptor: Path, port: int) -> bool:
    try:
        target = os.readlink(descriptor)
    except OSError:
        return False
    if not target.startswith("socket:["):
        return False
    inode = target[8:-1]
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in table)
    return any(row[9] == inode and int(row[2].split(":")[1], 16) == port for row in rows)


def test_a_fork_shares_no_socket(gateway: Gateway, settings: Settings) -> None:
    """Both sides go on at once for a while; were a socket shared, answers would be mixed up."""
    key = f"/{settings.region}/k"
    put(gateway, key, b"parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number in range(50):
                put(gateway, f"{key}-child", str(number).encode())
                entry = gateway.get(f"{key}-child")
                assert entry is not None
                assert entry.value == str(number).encode()
            code = 0
        finally:
            os._exit(code)
    for number in range(50):
        put(gateway, key, str(number).encode())
        entry = gateway.get(key)
        assert entry is not None
        assert entry.value == str(number).encode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    entry = gateway.get(f"{key}-child")
    assert entry is not None
    assert entry.value == b"49"


def test_etcd_away_and_back(start: Start) -> None:
    """While it is away calls fail soon and say where; afterwards the same client goes on."""
    server = start()
    gateway = Gateway([("127.0.0.1", server.client_port)], timeout_seconds=5)
    put(gateway, "/k", b"1")
    server.kill()
    with pytest.raises(Unavailable, match=str(server.client_port)) as lost:
        put(gateway, "/k", b"2")
    assert not lost.value.maybe_applied  # the dead connection was seen before it was used
    server.start()
    put(gateway, "/k", b"3")
    entry = gateway.get("/k")
    assert entry is not None
    assert entry.value == b"3"


def test_a_write_without_an_answer_says_that_it_may_have_happened(start: Start) -> None:
    server = start()
    gateway = Gateway([("127.0.0.1", server.client_port)], timeout_seconds=1)
    put(gateway, "/k", b"1")
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Unavailable, match="no answer in time") as lost:
        put(gateway, "/k", b"2")
    assert lost.value.maybe_applied
    with pytest.raises(Unavailable) as reading:
        gateway.get("/k")
    assert not reading.value.maybe_applied
    server.process.send_signal(signal.SIGCONT)


def test_another_endpoint_takes_over(start: Start) -> None:
    """The first does not exist; later the second one dies, and a third is there."""
    one = start()
    dead = free_ports(1)[0]
    other = start()
    ports = [dead, one.client_port, other.client_port]
    gateway = Gateway([("127.0.0.1", port) for port in ports], timeout_seconds=5)
    put(gateway, "/k", b"one")
    one.kill()
    assert gateway.get("/k") is None  # two clusters of one member each: the other answers
    put(gateway, "/k", b"other")


def test_tls_and_a_certificate(start: Start, tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "ca")
    ours = make_certificate(tmp_path, authority, "us")
    theirs = make_certificate(tmp_path, authority, "server")
    server = start(
        f"--cert-file={theirs.certificate}", f"--key-file={theirs.key}",
        f"--trusted-ca-file={authority}", "--client-cert-auth", scheme="https",
    )  # fmt: skip
    settings = Settings(
        etcd_scheme="https",
        etcd_port=server.client_port,
        etcd_ca_cert_file=str(authority),
        etcd_cert_file=str(ours.certificate),
        etcd_key_file=str(ours.key),
        etcd_timeout=5,
    )
    gateway = Gateway.of(settings)
    put(gateway, "/k", b"1")
    watch = gateway.watch("/", 1)
    assert [event.key for event in next(iter(watch)).events] == ["/k"]
    thread = threading.Thread(target=lambda: list(watch))
    thread.start()
    watch.close()
    thread.join(10)
    assert not thread.is_alive()
    stranger = make_authority(tmp_path, "stranger")
    with pytest.raises(Unavailable, match="certificate"):
        Gateway([("127.0.0.1", server.client_port)], tls=ours._replace(ca=stranger)).get("/k")
    missing = ours._replace(ca=tmp_path / "missing.pem")
    with pytest.raises(InvalidInput, match=r"missing\.pem"):
        Gateway([("127.0.0.1", server.client_port)], tls=missing).get("/k")


def test_log_in_and_a_token_that_expires(start: Start) -> None:
    """The token is renewed without the caller's help, in a watch and after etcd's restart too."""
    server = start("--auth-token-ttl=4")
    for command in (
        "user add root:secret", "user grant-role root root",
        "role add neutron", "role grant-permission neutron readwrite --prefix /n/",
        "user add neutron:s3cr3t", "user grant-role neutron neutron",
    ):  # fmt: skip
        etcdctl(server, *command.split())
    at = [("127.0.0.1", server.client_port)]
    gateway = Gateway(at, login=Login("neutron", "s3cr3t"), timeout_seconds=5)
    put(gateway, "/n/k", b"before there is authentication")
    etcdctl(server, "auth", "enable")
    put(gateway, "/n/k", b"1")
    with pytest.raises(Denied, match="permission denied"):
        put(gateway, "/other", b"")
    with pytest.raises(Denied) as refused:
        Gateway(at, login=Login("neutron", "wrong"), timeout_seconds=5).get("/n/k")
    assert "wrong" not in str(refused.value)
    with pytest.raises(Denied):
        Gateway(at, timeout_seconds=5).get("/n/k")
    time.sleep(6)
    put(gateway, "/n/k", b"2")
    server.kill()
    server.start()
    watch = gateway.watch("/n/", 1)
    assert next(iter(watch)).events
    watch.close()
    put(gateway, "/n/k", b"3")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("etcd", [("etcd", 2379)]),
        ("a, b:4001", [("a", 2379), ("b", 4001)]),
        ("fd00::1", [("fd00::1", 2379)]),
        ("[fd00::1]:4001,[fd00::2]", [("fd00::1", 4001), ("fd00::2", 2379)]),
    ],
)
def test_where_etcd_is(host: str, expected: list[tuple[str, int]]) -> None:
    assert list(Settings(etcd_host=host).endpoints) == expected


def test_what_is_imported() -> None:
    """neutron-server loads it in every worker: no loop, no HTTP/2, no gRPC; TLS on demand."""
    code = (
        "import sys, pkgutil, importlib, tortie.openstack as package\n"
        "for module in ('gateway', 'inventory', 'settings', 'endpoints', 'policies', 'subnets'):\n"
        "    importlib.import_module(f'tortie.openstack.{module}')\n"
        "print(sorted({'asyncio', 'h2', 'grpc', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        _answer(b"<html>a proxy</html>"),
        _answer(b"{}"),
        _answer(b"[]"),
        _answer(b"\xff"),
        _answer(b'{"header":{"revision":"many"}}'),
        _answer(b'{"kvs":[{"key":"not base64"}]}'),
        _answer(b"[" * 100_000),
        _answer(b"<html>", b"502 Bad Gateway"),
        _answer(b'{"error":7}', b"500 Oops"),
        _answer(b"", b"404 Not Found"),
    ],
)
def test_what_is_no_etcd_is_unavailable(answer: bytes) -> None:
    """Whatever answers: one of our errors, for reads, writes, watches and lists alike."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        gateway = Gateway([listener.getsockname()[:2]], timeout_seconds=5)
        for call in (
            lambda: gateway.get("/k"),
            lambda: put(gateway, "/k", b""),
            lambda: list(gateway.pages("/")),
            lambda: list(gateway.watch("/", 1)),
            lambda: gateway.keep_alive(1),
        ):
            with pytest.raises(Unavailable):
                call()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
