"""One master, whoever dies how; and no write of one that is not it any more."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.datastore.etcd_server import EtcdServer
from tests.openstack.test_gateway import wait_until

from tortie.datastore.client import Delete, Put, Txn, absent
from tortie.openstack.election import OLD_KEY, Election, election_key
from tortie.openstack.gateway import Gateway
from tortie.openstack.settings import Settings
from tortie.openstack.store import Change, NotMaster, Store

TTL_SECONDS = 2
RENEWAL_SECONDS = 0.3

_CANDIDATE = """
import sys, time
from tortie.openstack.election import Election
from tortie.openstack.gateway import Gateway
from tortie.openstack.settings import Settings
port, region, host = sys.argv[1:]
settings = Settings(etcd_port=int(port), openstack_region=region, elector_name=host)
election = Election(Gateway.of(settings), settings, ttl_seconds=2, renewal_seconds=0.3,
    on_change=lambda master: print(int(master), flush=True))
election.start()
sys.stdin.readline()
election.stop()
"""

Start = Callable[..., Election]


@pytest.fixture
def start(gateway: Gateway, settings: Settings) -> Iterator[Start]:
    started: list[Election] = []

    def start_one(**changes: object) -> Election:
        election = Election(
            gateway, settings, ttl_seconds=TTL_SECONDS, renewal_seconds=RENEWAL_SECONDS,
            **changes,  # type: ignore[arg-type]
        )  # fmt: skip
        started.append(election)
        election.start()
        return election

    yield start_one
    for election in started:
        election.stop()


def candidate(server: EtcdServer, settings: Settings, host: str) -> "subprocess.Popen[str]":
    """Another process; it prints 1 and 0 as it becomes and ceases to be the master."""
    assert settings.openstack_region is not None
    where = [str(server.client_port), settings.openstack_region, host]
    return subprocess.Popen(
        [sys.executable, "-c", _CANDIDATE, *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_key_as_calicos_servers_know_it(
    start: Start, gateway: Gateway, settings: Settings
) -> None:
    election = start()
    wait_until(lambda: election.is_master)
    key = election_key(settings.region)
    assert key == f"/calico/openstack/v2/region-{settings.openstack_region}/neutron_election"
    entry = gateway.get(key)
    assert entry is not None
    host, pid = entry.value.decode().rsplit(":", 1)
    assert (host, int(pid)) == (settings.server_id, os.getpid())
    assert entry.lease
    old = gateway.get(OLD_KEY)
    assert old is not None
    assert old.value == entry.value
    # A renewal writes it anew: a waiting server of Calico's takes silence for a lost watch.
    wait_until(lambda: (now := gateway.get(key)) is not None and now.version > entry.version)
    assert gateway.transact(Txn(election.guard())).succeeded


def test_one_of_several_and_the_next_when_it_stops(start: Start) -> None:
    elections = [start() for _ in range(4)]

    def masters() -> list[Election]:
        return [election for election in elections if election.is_master]

    for left in (4, 3, 2, 1):
        wait_until(lambda: len(masters()) == 1)
        (master,) = masters()
        if left > 1:
            began = time.monotonic()
            master.stop()
            elections.remove(master)
            wait_until(lambda: len(masters()) == 1)
            # At once, not when the lease would have ended.
            assert time.monotonic() - began < TTL_SECONDS


def test_kill_9_of_the_master(
    start: Start, server: EtcdServer, settings: Settings, gateway: Gateway
) -> None:
    """The lease of the dead ends by itself, and another takes over."""
    process = candidate(server, settings, "elsewhere")
    try:
        assert said(process) == "1"
        election = start()
        time.sleep(TTL_SECONDS + 0.5)
        assert not election.is_master  # the living one renews
        with pytest.raises(NotMaster):
            election.guard()
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: election.is_master)
    finally:
        process.kill()
        process.communicate()


def test_a_dead_master_of_the_same_host_is_not_waited_for(
    start: Start, gateway: Gateway, settings: Settings
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    lease = gateway.grant(600)
    value = f"{settings.server_id}:{ended.pid}".encode()
    gateway.transact(Txn(success=[Put(election_key(settings.region), value, lease)]))
    election = start()
    wait_until(lambda: election.is_master)
    gateway.revoke(lease)


def test_a_foreign_masters_key_is_respected_whatever_it_says(
    start: Start, gateway: Gateway, settings: Settings
) -> None:
    key = election_key(settings.region)
    gateway.transact(Txn(success=[Put(key, b"\xff no host and pid")]))
    election = start()
    time.sleep(1)
    assert not election.is_master
    gateway.transact(Txn(success=[Delete(key)]))
    wait_until(lambda: election.is_master)


def test_a_master_whose_key_was_taken_writes_nothing_and_stands_again(
    start: Start, gateway: Gateway, settings: Settings
) -> None:
    changes: list[bool] = []
    election = start(on_change=changes.append)
    wait_until(lambda: election.is_master)
    store = Store(gateway, election.guard)
    path = f"/test/{settings.region}/k"
    assert store.write([Change(path, 0, b"1")]) == []
    key = election_key(settings.region)
    usurper = Txn(success=[Put(key, b"usurper:1", 0)])
    guard = election.guard()
    gateway.transact(usurper)
    assert not gateway.transact(Txn(guard, [Put(path, b"2")])).succeeded
    wait_until(lambda: not election.is_master)
    with pytest.raises(NotMaster):
        store.write([Change(path, 0, b"2")])
    gateway.transact(Txn(success=[Delete(key)]))
    wait_until(lambda: election.is_master)
    assert changes == [True, False, True]


def test_a_frozen_master_does_not_come_back_as_one(
    start: Start, server: EtcdServer, settings: Settings
) -> None:
    """Stopped for longer than its lease: when it wakes it is told, and stands behind."""
    process = candidate(server, settings, "elsewhere")
    try:
        assert said(process) == "1"
        election = start()
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: election.is_master)
        process.send_signal(signal.SIGCONT)
        assert said(process) == "0"
        assert election.is_master
    finally:
        process.kill()
        process.communicate()


def test_etcd_away_and_back(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path / "etcd").start()
    settings = Settings(etcd_port=server.client_port, etcd_timeout=2)
    gateway = Gateway.of(settings)
    election = Election(gateway, settings, ttl_seconds=TTL_SECONDS, renewal_seconds=0.3)
    try:
        election.start()
        wait_until(lambda: election.is_master)
        server.kill()
        wait_until(lambda: not election.is_master)  # by our own clock: nobody answers
        server.start()
        wait_until(lambda: election.is_master)
    finally:
        election.stop()
        left = gateway.transact(Txn([absent(election_key("no-region"))])).succeeded
        server.kill()
    assert left


def test_a_child_of_a_master_is_none(start: Start, gateway: Gateway) -> None:
    election = start()
    wait_until(lambda: election.is_master)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not election.is_master
            election.stop()  # its own, which has not begun: the parent's goes on
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    time.sleep(1)
    assert election.is_master
