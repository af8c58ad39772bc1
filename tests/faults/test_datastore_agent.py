"""Faults of the datastore under a real agent: D1, D5, D7, D10, D12 of the catalogue."""

import base64
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.datastore.credentials import etcdctl
from tests.datastore.etcd_server import EtcdServer
from tests.datastore.lone_agent import Host, agent, eventually
from tests.unit.ipam.invariants import allocated, check

from tortie.ctl.main import main

QUOTA_BYTES = 8 << 20
CONVERGED_SECONDS = 2.0

SKEWED = """\
# Everything in Python that tells the time of day is ahead by what a file says.
import datetime, os, pathlib, sys, time
def ahead(): return int(pathlib.Path(os.environ["CLOCK_AHEAD_BY"]).read_text() or 0)
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + ahead()
time.time_ns = lambda: real_ns() + ahead() * 10**9
class Skewed(datetime.datetime):
    @classmethod
    def now(cls, zone=None): return super().now(zone) + datetime.timedelta(seconds=ahead())
datetime.datetime = Skewed
from tortie.ctl.main import entry
entry()
"""

POOL = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: blue}
spec: {cidr: 10.67.0.0/24}
"""
POLICY = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: NAME}
spec: {selector: all(), ingress: [{action: Allow, source: {nets: [NET]}}]}
"""


class Bench:
    """An etcd, the agent of `n1` on it, and a command line elsewhere."""

    def __init__(self, server: EtcdServer, host: Host, folder: Path) -> None:
        self.server = server
        self.host = host
        self._file = folder / "resources.yaml"

    def tortie(self, *words: str) -> tuple[int, str]:
        out = io.StringIO()
        settings = {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": self.server.endpoint}
        with patch.dict(os.environ, settings):
            return main(words, out, out), out.getvalue()

    def apply(self, text: str) -> None:
        self._file.write_text(text)
        code, said = self.tortie("apply", "-f", str(self._file))
        assert code == 0, said

    def add(self, name: str) -> dict[str, Any]:
        added = self.host.workload("add", name, "--tap", "-o", "json")
        assert added.code == 0, (added, self.host.log())
        (attached,) = json.loads(added.out)
        assert isinstance(attached, dict)
        return attached

    def allow(self, name: str, net: str) -> None:
        """A policy whose effect can be seen in the rules."""
        self.apply(POLICY.replace("NAME", name).replace("NET", net))

    def enforces(self, net: str, *, within_seconds: float = 10.0) -> None:
        began = time.monotonic()
        eventually(lambda: net in self.host.rules(), self.host.log)
        assert time.monotonic() - began < within_seconds + 0.5, "looking takes time, too"

    def resyncs(self) -> int:
        """How often the agent listed everything anew."""
        return self.host.log().count("datastore resync")

    def resynced(self, before: int) -> None:
        eventually(lambda: self.resyncs() > before, self.host.log)

    def stored(self, prefix: str = "/calico/") -> dict[str, bytes]:
        lines = etcdctl(self.server, "get", "--prefix", prefix, "-w", "json")
        entries = json.loads(lines).get("kvs", ())
        return {_text(e["key"]).decode(): _text(e["value"]) for e in entries}

    def endpoints(self) -> str:
        return " ".join(self.stored("/calico/resources/v3/projectcalico.org/workloadendpoints/"))

    def sound(self) -> None:
        assert check(self.stored()) == []


def _text(coded: str) -> bytes:
    return base64.b64decode(coded)


@contextmanager
def bench_on(
    folder: Path, environment: dict[str, str], python: Sequence[str] = ("-m", "tortie")
) -> Iterator[Bench]:
    server = EtcdServer(folder / "etcd", [f"--quota-backend-bytes={QUOTA_BYTES}"])
    socket = server.also_on_socket()
    server.start()
    datastore = {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": f"unix://{socket}", **environment}
    try:
        with agent("n1", datastore, folder, python) as host:
            bench = Bench(server, host, folder)
            bench.apply(POOL)
            yield bench
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.kill()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_on(tmp_path_factory.mktemp("dfaults"), {}) as made:
        yield made


def test_d1_etcd_does_not_answer(bench: Bench) -> None:
    """What is enforced stays; an ADD fails and leaves nothing; a DEL is finished afterwards."""
    bench.add("d1-stays")
    going = bench.add("d1-goes")
    bench.allow("d1", "10.1.1.0/24")
    bench.enforces("10.1.1.0/24")
    pid, lost = bench.host.pid, bench.host.log().count("datastore connecting")
    rules, links, generation = bench.host.rules(), bench.host.links(), bench.host.generation()
    bench.server.process.send_signal(signal.SIGSTOP)
    try:
        refused = bench.host.workload("add", "d1-late", "--tap", "--timeout", "8")
        assert refused.code != 0
        assert "etcd" in refused.err
        eventually(lambda: bench.host.log().count("datastore connecting") > lost, bench.host.log)
        assert bench.host.links() == links
        assert (bench.host.rules(), bench.host.generation()) == (rules, generation)
        before, began = bench.host.cpu_seconds(), time.monotonic()
        time.sleep(4)
        spent = (bench.host.cpu_seconds() - before) / (time.monotonic() - began)
        assert spent < 0.02, f"{spent:.1%} of a processor"
        removed = bench.host.workload("remove", "d1-goes", "--timeout", "8")
        assert "hears of it later" in removed.out
        assert going["interface"] not in bench.host.links(), "nothing passes any more"
    finally:
        bench.server.process.send_signal(signal.SIGCONT)
    bench.allow("d1", "10.1.2.0/24")
    bench.enforces("10.1.2.0/24", within_seconds=CONVERGED_SECONDS)
    eventually(lambda: "d1-goes" not in bench.endpoints(), bench.host.log)
    bench.sound()
    assert bench.host.pid == pid
    assert bench.host.workload("remove", "d1-stays").code == 0


def test_d5_history_is_gone_when_the_agent_comes_back(bench: Bench) -> None:
    """It lists, compares, and writes to the kernel only what differs: at first nothing."""
    bench.add("d5")
    bench.allow("d5-stays", "10.5.1.0/24")
    bench.allow("d5-goes", "10.5.2.0/24")
    bench.enforces("10.5.2.0/24")
    time.sleep(0.5)
    pid, generation = bench.host.pid, bench.host.generation()
    for change in (False, True):
        resyncs = bench.resyncs()
        bench.host.signal(signal.SIGSTOP)
        try:
            bench.server.kill()  # its watch ends here; a live one would have been told all
            bench.server.start()
            bench.allow("d5-in-between", "10.5.3.0/24")
            assert bench.tortie("delete", "gnp", "d5-in-between")[0] == 0
            if change:
                assert bench.tortie("delete", "gnp", "d5-goes")[0] == 0
                bench.allow("d5-new", "10.5.4.0/24")
            etcdctl(bench.server, "compact", str(revision_of(bench.server)))
        finally:
            bench.host.signal(signal.SIGCONT)
        bench.resynced(resyncs)
        if not change:
            time.sleep(1.0)
            assert bench.host.generation() == generation, "nothing differs, nothing is written"
    bench.enforces("10.5.4.0/24", within_seconds=CONVERGED_SECONDS)
    rules = bench.host.rules()
    assert "10.5.2.0/24" not in rules, "a deletion that no event told"
    assert "10.5.1.0/24" in rules
    assert bench.host.generation() - generation <= 4
    assert bench.host.pid == pid


HANDLE = "tortie.default.d7.eth0"


def test_d7_etcd_has_no_space(bench: Bench) -> None:
    """Writes are refused, deletions wait in the journal, and it goes on without a restart."""
    workload = bench.add("d7")
    pid = bench.host.pid
    for number in range(2 * QUOTA_BYTES // 1_000_000):
        try:
            put(bench.server, f"/filler/{number}", 1_000_000)
        except subprocess.CalledProcessError as error:
            full = error.stderr
            break
    assert b"space exceeded" in full
    try:
        links = bench.host.links()
        refused = bench.host.workload("add", "d7-late", "--tap", "--timeout", "8")
        assert refused.code != 0
        assert "space exceeded" in refused.err
        assert bench.host.links() == links
        removed = bench.host.workload("remove", "d7", "--timeout", "8")
        assert "hears of it later" in removed.out
        assert workload["interface"] not in bench.host.links()
        assert "d7" not in bench.endpoints(), "what needs no space is done"
        assert HANDLE in allocated(bench.stored()).values(), "and what does has to wait"
    finally:
        make_room(bench.server)
    eventually(lambda: workload["addresses"][0] not in allocated(bench.stored()), bench.host.log)
    assert "d7" not in bench.endpoints()
    bench.add("d7-again")
    bench.sound()
    assert bench.host.pid == pid


def make_room(server: EtcdServer) -> None:
    etcdctl(server, "del", "--prefix", "/filler/")
    etcdctl(server, "compact", str(revision_of(server)))
    etcdctl(server, "defrag")
    etcdctl(server, "alarm", "disarm")


def revision_of(server: EtcdServer) -> int:
    found = json.loads(etcdctl(server, "get", "x", "-w", "json"))["header"]["revision"]
    assert isinstance(found, int)
    return found


def put(server: EtcdServer, key: str, size: int) -> None:
    subprocess.run(
        ["etcdctl", f"--endpoints={server.endpoint}", "put", key],
        input=b"x" * size, check=True, capture_output=True,
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/usr/local/bin"},
    )  # fmt: skip


def test_d12_etcd_from_an_old_backup(bench: Bench, tmp_path: Path) -> None:
    """A different past: what is in both stays untouched, and no address is given out twice."""
    kept = bench.add("d12-kept")
    bench.allow("d12", "10.12.1.0/24")
    bench.enforces("10.12.1.0/24")
    snapshot = tmp_path / "snapshot"
    etcdctl(bench.server, "snapshot", "save", str(snapshot))
    lost = bench.add("d12-lost")
    bench.allow("d12-lost", "10.12.2.0/24")
    bench.enforces("10.12.2.0/24")
    revision = revision_of(bench.server)
    pid, resyncs = bench.host.pid, bench.resyncs()
    bench.server.kill()
    bench.server.restore(snapshot)
    bench.server.start()
    assert revision_of(bench.server) < revision, "it went back"
    bench.resynced(resyncs)
    eventually(lambda: "10.12.2.0/24" not in bench.host.rules(), bench.host.log)
    rules = bench.host.rules()
    assert "10.12.1.0/24" in rules
    assert kept["interface"] in rules
    taken = {*kept["addresses"], *lost["addresses"]}
    given: list[str] = []
    for number in range(3):
        added = bench.host.workload("add", f"d12-{number}", "--tap", "-o", "json")
        given += json.loads(added.out)[0]["addresses"] if added.code == 0 else []
    assert not taken & set(given)
    assert len(given) == len(set(given)) >= 2, "it does not stop at what is in use"
    bench.sound()
    assert bench.host.pid == pid


def test_d10_a_clock_that_jumps(tmp_path: Path) -> None:
    """An agent an hour ahead, then an hour behind: it enforces, assigns and reports as before."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    environment = {"CLOCK_AHEAD_BY": str(clock), "FELIX_REPORTINGINTERVALSECS": "1"}
    with bench_on(tmp_path, environment, ["-c", SKEWED]) as bench:
        bench.add("before")
        pid = bench.host.pid
        for number, jump in enumerate(("3600", "-3600")):
            clock.write_text(jump)
            wait_for_report(bench, int(jump))
            net = f"10.10.{number}.0/24"
            bench.allow("d10", net)
            bench.enforces(net)
            bench.add(f"after{number}")
            assert bench.host.workload("remove", f"after{number}").code == 0
        assert bench.host.workload("remove", "before").code == 0
        bench.sound()
        assert bench.host.pid == pid


def wait_for_report(bench: Bench, ahead_seconds: int) -> None:
    """Until the agent's own clock has jumped."""
    eventually(lambda: abs(reported(bench) - time.time() - ahead_seconds) < 60, bench.host.log)


def reported(bench: Bench) -> float:
    """When the agent says that it last reported, in seconds since 1970."""
    values = bench.stored("/calico/felix/v2/no-region/host/n1/last_reported_status")
    for value in values.values():
        at = datetime.strptime(json.loads(value)["time"], "%Y-%m-%dT%H:%M:%SZ")
        return at.replace(tzinfo=UTC).timestamp()
    return 0.0
