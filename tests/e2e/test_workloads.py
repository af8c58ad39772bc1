"""Workloads that move, go and come again."""

import contextlib
import os
import re
import socket
from functools import partial
from pathlib import Path

from tests.e2e.live import LiveLab
from tests.e2e.traffic import connection

from tortie.attach.client import Client
from tortie.kernel import netns
from tortie.model import names

GUARD = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.guard}
spec:
  selector: role == 'c'
  types: [Ingress]
  ingress:
  - {action: Allow, source: {selector: role == 'b'}}
"""


def test_l14_a_workload_moves_with_address_policy_and_nothing_left(
    live: LiveLab, tmp_path: Path
) -> None:
    live.apply(GUARD, tmp_path)
    expected = live.check("before the move")
    before = live.lab.workload("w5")
    interface = names.interface_name("red", "w5")
    assert interface in live.kernel_text("h3")
    try:
        with connection(live, "w3", "w5") as traffic:
            live.lab_ok("workload", "move", "w5", "--to", "h1")
            moved = live.lab.workload("w5")
            live.wait_for_routes([moved])
            assert moved.addresses == before.addresses
            assert live.check("after the move") == expected
            seen = traffic.stop()
        assert not seen.problem, "the connection lives through a move"
        print(f"{live.datastore}: longest gap of the move: {seen.longest_gap_seconds:.2f} s")
        assert _own_lines(live, "h3", interface, before.addresses) == []
    finally:
        live.lab_ok("workload", "move", "w5", "--to", "h3")
    live.wait_for_routes([before])
    assert live.check("and back") == expected
    assert _own_lines(live, "h1", interface, before.addresses) == []


def test_a_removed_workload_leaves_no_trace_and_may_come_again(live: LiveLab) -> None:
    before = {host.name: live.kernel_text(host.name) for host in live.lab.hosts}
    stored = live.entries()
    gone = live.add("guest", "h2", "red", role="x")
    live.settle()
    live.check("with a guest")
    live.remove("guest")
    live.settle()
    interface = names.interface_name("red", "guest")
    for host in live.lab.hosts:
        assert _own_lines(live, host.name, interface, gone.addresses) == [], host.name
        assert interface not in before[host.name]
    kept = {
        key: entry.value.decode()
        for key, entry in live.entries().items()
        if "guest" in key or "guest" in entry.value.decode()
    }
    assert kept == {}, "endpoint, handle and block forget it"
    new = {key for key in live.entries() if key not in stored}
    assert not new, "nothing that was not there before"

    again = live.add("guest", "h2", "red", role="x")
    live.settle()
    live.check("with the guest again")
    assert len(again.addresses) == 2
    live.remove("guest")
    live.settle()
    live.check("and gone again")


def _own_lines(live: LiveLab, host: str, interface: str, addresses: tuple[str, ...]) -> list[str]:
    """Lines of the host's kernel that are about the workload, but for routes to where it is now,
    and for elements that packets have made, and that go by themselves."""
    names_it = re.compile(
        "|".join([interface, *(rf"(?<![\w.:]){re.escape(one)}(?![\w.:/])" for one in addresses)])
    )
    lines = live.kernel_text(host).splitlines()
    passing = (" via ", " expires ")
    return [
        line
        for line in lines
        if names_it.search(line) and not any(word in line for word in passing)
    ]


def test_l10_the_first_packet_after_add(live: LiveLab, tmp_path: Path) -> None:
    """Sent as soon as Add has answered, once: what is allowed arrives, the rest never does."""
    live.apply(GUARD, tmp_path)
    targets = {role: live.lab.workload(name) for role, name in (("c", "w5"), ("a", "w1"))}
    live.settle()
    answered: dict[tuple[str, str], list[bool]] = {}
    with Client(live.lab.host_directory("h1") / "attach.sock") as agent:
        for number in range(10):
            for own in ("b", "x"):
                inside = netns.create_anonymous()
                found = agent.add(
                    namespace="red", workload=f"first{number}{own}", labels={"role": own},
                    profiles=["kns.red"], netns=f"/proc/{os.getpid()}/fd/{inside}",
                )  # fmt: skip
                for role, target in targets.items():
                    came = netns.run_in(inside, partial(_asked_once, target.addresses[0]))
                    answered.setdefault((own, role), []).append(came)
                agent.remove(namespace="red", workload=found["key"]["workload"])
                os.close(inside)
    assert not any(answered["x", "c"]), "forbidden"
    assert all(answered["b", "a"] + answered["x", "a"]), "allowed, on a host that was waited for"
    # The other host hears of the new member a moment later; nobody waits for it.
    assert any(answered["b", "c"])


def _asked_once(address: str) -> bool:
    """Does one datagram get an answer?"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.sendto(b"?", (address.partition("/")[0], 53))
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            return bool(sock.recv(16))
    return False
