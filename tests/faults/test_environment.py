"""K19, K24: paths that take less than was thought, and clocks that jump."""

import errno
import socket
import subprocess
import time

import pytest
from tests.attacks.arena import Arena
from tests.faults.agent import running
from tests.faults.monitor import converged, monitored
from tests.netns.dataplane_host import BRIEF, FAMILIES, Workload, hears

from tortie.desired.policy import PolicyList

NARROW, LARGE = 1300, 1400
_DISCOVER = {
    4: (socket.IPPROTO_IP, 10, 2),  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    6: (socket.IPPROTO_IPV6, 23, 2),
}


@pytest.mark.parametrize("family", [4, 6])
def test_k19_a_sender_learns_what_the_path_takes(field: Arena, family: int) -> None:
    """The host says so with an error of its own, and no policy keeps that from the workload: here
    one that lets nothing in."""
    field.host.endpoint(field.attacker, ingress=PolicyList())
    field.host.apply()
    subprocess.run(["ip", "link", "set", field.open.interface, "mtu", str(NARROW)], check=True)
    to = (field.open.address(family).address_text, 9300)
    with (
        field.open.socket(family, socket.SOCK_DGRAM) as server,
        field.attacker.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind(to)
        client.setsockopt(*_DISCOVER[family])
        client.connect(to)
        client.send(bytes(NARROW - 100))
        assert len(server.recv(2000)) == NARROW - 100
        client.send(bytes(LARGE))
        give_up = time.monotonic() + 2
        while _takes(client, LARGE):
            assert time.monotonic() < give_up, "it never learns, and loses all that is large"
            time.sleep(0.05)
        with pytest.raises(TimeoutError):
            server.recv(2000)
        while client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            pass  # each of the large ones has been answered
        client.send(bytes(NARROW - 100))
        assert len(server.recv(2000)) == NARROW - 100


def _takes(client: socket.socket, size: int) -> bool:
    try:
        client.send(bytes(size))
    except OSError as error:
        return error.errno != errno.EMSGSIZE
    return True


@pytest.mark.parametrize("family", [4, 6])
def test_k19_a_large_datagram_arrives_in_pieces_where_policy_allows(
    field: Arena, family: int
) -> None:
    """All of its pieces, whichever of them has the ports; and none where it does not."""

    def arrives(to: Workload) -> bool:
        address = (to.address(family).address_text, 9301)
        with (
            to.socket(family, socket.SOCK_DGRAM) as server,
            field.attacker.socket(family, socket.SOCK_DGRAM) as client,
        ):
            server.bind(address)
            client.sendto(bytes(8000), address)
            try:
                return len(server.recv(9000)) == 8000
            except TimeoutError:
                return False

    assert FAMILIES[family]
    assert arrives(field.open)
    assert not arrives(field.guarded)


@pytest.mark.parametrize("jump_seconds", [86_400.0, -86_400.0, 1e9])
def test_k24_the_clock_jumps(
    field: Arena, monkeypatch: pytest.MonkeyPatch, jump_seconds: float
) -> None:
    """What waits, waits by a clock that never jumps: changes, audits and cuts come as before."""
    real = time.time
    with running(field) as agent, monitored(field) as seen:
        turns = agent.statistics[0]
        monkeypatch.setattr(time, "time", lambda: real() + jump_seconds)
        assert abs(time.time() - real() - jump_seconds) < 1, "it has jumped"
        for allowed in (False, True):
            began = time.monotonic()
            lists = None if allowed else PolicyList()
            agent.call(lambda lists=lists: field.host.endpoint(field.open, ingress=lists))  # type: ignore[misc]
            while hears(field.attacker, field.open, 9400, patience=BRIEF) is not allowed:
                assert time.monotonic() - began < 2
        subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=0"], check=True)
        agent.audit()
        began = time.monotonic()
        while field.host.sysctl("net.ipv4.ip_forward") != "1":
            assert time.monotonic() - began < 2
            time.sleep(0.01)
        monkeypatch.undo()
        agent.audit()
        assert agent.statistics[0] - turns < 40, "no timer ran wild"
    assert seen.leaked == 0, str(seen)
    converged(field)
