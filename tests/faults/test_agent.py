"""K1, K4, K5, D14 against a real agent, with its keeper and its datastore, in a lab."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.live import PATIENCE_SECONDS, LiveLab, running_lab
from tests.faults.lab_monitor import lasting

from tortie.kernel import netns
from tortie.lab import cluster
from tortie.model.keys import RESOURCES

MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with running_lab("flt", hosts=2) as made:
        made.add("a", "h1", role="a")
        made.add("b", "h1", role="b")
        made.add("c", "h2", role="c")
        yield made


ISOLATE_B = """apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: isolate-b}
spec: {selector: role == 'b', types: [Ingress], ingress: [{action: Deny}]}
"""
OPEN_B = ISOLATE_B.replace("Deny", "Allow")


def enforced(lab: LiveLab, expected: list[bool]) -> bool:
    """What is forbidden never passes; what is allowed is asked for again, on a slow machine."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = [lab.reaches(*pair) for pair in PAIRS]
        opened = [pair for pair, here, wanted in zip(PAIRS, found, expected, strict=True)
                  if here and not wanted]  # fmt: skip
        assert not opened, f"open, and should not be: {opened}"
        if found == expected:
            return True
        assert time.monotonic() < give_up, f"closed, and should not be: {found}"


PAIRS = (("red/a", "red/b"), ("red/c", "red/b"), ("red/a", "red/c"), ("red/b", "red/a"))
CLOSED, OPEN = [False, False, True, True], [True] * 4


def test_k1_flushes_under_a_real_agent(lab: LiveLab, tmp_path: Path) -> None:
    lab.apply(ISOLATE_B, tmp_path)
    before = lab.command_in("h1", "nft", "-s", "list", "ruleset").stdout
    assert lab.command_in("h1", "nft", "add", "table", "inet", "foreign").returncode == 0
    for _ in range(30):
        assert lab.command_in("h1", "nft", "flush", "ruleset").returncode == 0
    after = lab.command_in("h1", "nft", "-s", "list", "ruleset").stdout
    assert "foreign" not in after, "the flushes took place"
    assert lasting(after) == lasting(before)
    assert enforced(lab, CLOSED)


def test_k5_a_stopped_agent_catches_up(lab: LiveLab, tmp_path: Path) -> None:
    """While it is stopped the last state stands and readiness says nothing; then it is current."""
    lab.apply(ISOLATE_B, tmp_path)
    pid = lab.agent_pid("h1")
    os.kill(pid, signal.SIGSTOP)
    try:
        for text in (OPEN_B, ISOLATE_B, OPEN_B):
            file = tmp_path / "changed.yaml"
            file.write_text(text)
            lab.ok("apply", "-f", str(file))
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        assert state == "T", "it is stopped"
        assert not _ready(lab, "h1")
        assert enforced(lab, CLOSED), "what was decided last is enforced"
    finally:
        os.kill(pid, signal.SIGCONT)
    began = time.monotonic()
    lab.settle()
    assert time.monotonic() - began < 5
    assert enforced(lab, OPEN), "the newest of them"
    assert lab.agent_pid("h1") == pid
    assert _ready(lab, "h1")


def _ready(lab: LiveLab, host: str) -> bool:
    import socket

    def ask() -> bool:
        try:
            with socket.create_connection(("localhost", cluster.HEALTH_PORT), 0.3) as client:
                client.settimeout(0.3)
                client.sendall(b"GET /readiness HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(64)
        except OSError:
            return False

    return netns.run_in(netns.named_path(lab.lab.host_namespace(host)), ask)


def test_k4_an_agent_that_runs_out_of_memory(lab: LiveLab, tmp_path: Path) -> None:
    """The kernel kills it; its tables stay owned and in force; the next one goes on from there."""
    group = MEMORY / f"tortie-flt{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.fail(f"no memory cgroup to run out of: {error}")
    lab.apply(ISOLATE_B, tmp_path)
    rules = lab.command_in("h1", "nft", "-s", "list", "ruleset").stdout
    pid = lab.agent_pid("h1")
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "memory.limit_in_bytes").write_text("6M")
        nets = "\n".join(f"  - 10.{n // 256 % 256}.{n % 256}.0/24" for n in range(20_000))
        file = tmp_path / "large.yaml"
        file.write_text(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n"
            f"metadata: {{name: large, labels: {{large: 'yes'}}}}\nspec:\n  nets:\n{nets}\n"
        )
        lab.ok("apply", "-f", str(file))
        lab.eventually(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid), "it was killed")
        killed = (group / "memory.oom_control").read_text()
        assert "oom_kill 0" not in killed, killed
        assert lab.command_in("h1", "nft", "flush", "ruleset").returncode == 0
        now = lab.command_in("h1", "nft", "-s", "list", "ruleset").stdout
        assert lasting(now) == lasting(rules), "the keeper owns them"
        assert enforced(lab, CLOSED)
    finally:
        lab.ok("delete", "globalnetworkset", "large")
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)
        lab.eventually(lambda: not _alive(pid), "it is gone")
        group.rmdir()
        lab.start_agent("h1")
    lab.settle()
    assert enforced(lab, CLOSED)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and not _zombie(pid)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


GARBAGE: dict[str, bytes] = {
    "not JSON": b"{",
    "not UTF-8": b'{"spec": "\xff\xfe"}',
    "deep": b"[" * 20_000,
    "another type": b'{"kind": 7, "metadata": [], "spec": "x"}',
    "NaN": b'{"kind": "GlobalNetworkPolicy", "metadata": {"name": "NAME"}, "spec": {"order": NaN}}',
    "twice": b'{"kind": "Tier", "kind": "GlobalNetworkPolicy", "metadata": {"name": "other"}}',
    "empty": b"",
    "null": b"null",
    "huge number": b'{"kind": "GlobalNetworkPolicy", "spec": {"order": 1' + b"0" * 6000 + b"}}",
    "a bad selector": (
        b'{"kind": "GlobalNetworkPolicy", "metadata": {"name": "NAME"},'
        b' "spec": {"selector": "' + b"(" * 3000 + b'"}}'
    ),
    # This one is valid: it allows `c` what is allowed anyhow.
    "newlines": (
        b'{"kind": "GlobalNetworkPolicy", "metadata": {"name": "NAME", "annotations":'
        b' {"a\\nb": "\\"; flush ruleset"}}, "spec": {"selector": "role == \'c\'",'
        b' "types": ["Ingress"], "ingress": [{"action": "Allow",'
        b' "metadata": {"annotations": {"x\\n": "}\\n\\"; flush ruleset"}}}]}}'
    ),
}
KINDS = ("globalnetworkpolicies", "globalnetworksets", "profiles", "tiers", "ippools", "nodes")


def test_d14_garbage_in_the_datastore(lab: LiveLab, tmp_path: Path) -> None:
    """Each counts as not there; a good change at the same time is enforced; nobody restarts."""
    lab.apply(ISOLATE_B, tmp_path)
    pids = [lab.agent_pid(host) for host in ("h1", "h2")]
    assert enforced(lab, CLOSED)
    keys = {
        f"{RESOURCES}{kind}/flt-{number}": value.replace(b"NAME", b"flt-%d" % number)
        for kind in KINDS
        for number, value in enumerate(GARBAGE.values())
    }
    odd = f'{RESOURCES}globalnetworkpolicies/a"\n}};$(x)`y`\u202e/../b'
    keys[odd] = b"{}"
    lab.write_raw(dict(keys))
    try:
        assert [lab.agent_pid(host) for host in ("h1", "h2")] == pids
        assert enforced(lab, CLOSED)
        began = time.monotonic()
        lab.apply(OPEN_B, tmp_path)
        assert time.monotonic() - began < 5
        assert enforced(lab, OPEN)
        lab.apply(ISOLATE_B, tmp_path)
        assert enforced(lab, CLOSED)
        listed = lab.command_in("h1", "nft", "list", "ruleset").stdout
        assert "flush" not in listed
        assert "flt-" in lab.agent_log("h1"), "and it is told"
    finally:
        lab.write_raw(dict.fromkeys(keys))
    assert [lab.agent_pid(host) for host in ("h1", "h2")] == pids
