"""K11, K20, K25, K26: too much of something, or nothing left of it."""

import contextlib
import errno
import json
import os
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.attacks.arena import Arena
from tests.faults.agent import Agent, running
from tests.faults.monitor import converged, monitored
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF, Workload, hears, patience_for, tier

from tortie.desired.kinds import Kind
from tortie.desired.policy import IPSetType, PolicyList, PortRange, Rule, Side
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.lib.errors import InvalidInput, kernel_error
from tortie.lib.ip import Network
from tortie.model import codec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource
from tortie.model.validation import check

SETS, MEMBERS = 2000, 10
DENIALS = 6
DENIED_SECONDS = 1.0


def members(number: int) -> Iterator[Network]:
    return (Network(4, (11 << 24) + number * MEMBERS + n, 32) for n in range(MEMBERS))


def churn(field: Arena, *, present: bool) -> None:
    """All the sets come at once, or go."""
    for number in range(SETS):
        name = f"bulk-{number}"
        if present:
            field.host.update(Kind.IP_SET, name, IPSetType.NET)
        for member in members(number):
            field.host.update(Kind.IP_SET_MEMBER, (name, member), True if present else None)
        if not present:
            field.host.update(Kind.IP_SET, name, None)


def wait_in_sync(field: Arena, agent: Agent) -> None:
    give_up = time.monotonic() + 20
    while not field.host.dataplane.in_sync:
        assert time.monotonic() < give_up
        assert agent.failure is None
        time.sleep(0.005)


def test_k11_a_denial_does_not_wait_behind_bulk_work(field: Arena) -> None:
    """Two thousand sets come and go without end; what is denied meanwhile is denied within 1 s."""
    deny = field.host.policy("late", ingress=(Rule("Allow"),))
    lists = PolicyList((tier(deny, default="Pass"),), profiles=(ALLOW_ALL,))
    field.host.endpoint(field.open, ingress=lists)
    field.host.apply()
    waited = []
    with running(field) as agent:
        for number in range(DENIALS):
            present = number % 2 == 0
            commits = agent.nftables.commits
            began = time.monotonic()
            agent.call(lambda present=present: churn(field, present=present))  # type: ignore[misc]
            told = time.monotonic()
            action = "Deny" if present else "Allow"
            agent.call(
                lambda action=action: field.host.policy("late", ingress=(Rule(action),))  # type: ignore[misc]
            )
            wait_in_sync(field, agent)
            waited.append(time.monotonic() - told)
            assert agent.nftables.commits > commits
            assert (
                hears(field.attacker, field.open, 4000 + number, patience=patience_for(not present))
                != present
            )
            sets = agent.nftables.sets
            assert (sets > SETS) == present, "the bulk work took place"
            assert time.monotonic() > began
        assert agent.statistics[1] == 0, "no apply failed"
    assert statistics.median(waited) < DENIED_SECONDS, waited


POLICIES, RULES = 24, 100
LIMIT_BYTES = 150_000


@contextmanager
def limited_sends(limit_bytes: int, refused: list[int]) -> Iterator[None]:
    """A kernel that takes no larger batch, as one that may not grow its queue."""
    patch = pytest.MonkeyPatch()
    send = NetlinkSocket.send

    def limited(self: NetlinkSocket, data: bytes) -> None:
        if len(data) > limit_bytes:
            refused.append(len(data))
            code = errno.EMSGSIZE
            raise kernel_error("send to netlink", code, f"{len(data)} bytes")
        send(self, data)

    patch.setattr(NetlinkSocket, "send", limited)
    try:
        yield
    finally:
        patch.undo()


def test_k20_a_batch_that_is_too_large_is_split_where_it_stays_closed(field: Arena) -> None:
    """Thousands of rules for a kernel that takes a fraction at once: all is closed first, then
    let in by halves; at no time is anything open that should not be, and in the end nothing is
    refused."""
    ports = Side(ports=(PortRange(80, 80),))
    ids = []
    for number in range(POLICIES):
        rules = tuple(
            Rule("Deny", protocol=6 if n % 2 else 17, source=ports if n % 3 else Side())
            for n in range(RULES)
        )
        ids.append(field.host.policy(f"large-{number}", ingress=rules))
    field.host.endpoint(field.guarded, ingress=PolicyList((tier(*ids, default="Deny"),)))
    refused: list[int] = []
    with monitored(field) as seen, limited_sends(LIMIT_BYTES, refused):
        for _ in range(POLICIES):
            field.host.apply()
            if not field.host.dataplane.refused and field.host.dataplane.in_sync:
                break
            field.host.resync()
    assert refused, "it was too large"
    assert field.host.dataplane.refused == {}
    assert seen.leaked == 0, str(seen)
    assert len(field.host.rules()) > POLICIES * RULES
    converged(field)


def test_k20_two_hundred_thousand_elements_at_once(field: Arena) -> None:
    allowed = field.host.policy("wide", ingress=(Rule("Allow", source=Side(sets=("wide",))),))
    field.host.update(Kind.IP_SET, "wide", IPSetType.NET)
    for number in range(200_000):
        member = Network(4, (12 << 24) + number, 32)
        field.host.update(Kind.IP_SET_MEMBER, ("wide", member), True)
    field.host.endpoint(field.open, ingress=PolicyList((tier(allowed),)))
    field.host.apply()
    assert field.host.dataplane.statistics().nftables.elements > 200_000
    assert not hears(field.attacker, field.open, 80, patience=BRIEF)
    field.host.update(Kind.IP_SET_MEMBER, ("wide", field.attacker.ipv4), True)
    field.host.apply()
    assert hears(field.attacker, field.open, 81)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Nothing more can be opened: no file, no socket."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd"))) + 1
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, before[1]))
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    try:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_k25_no_descriptor_is_left(field: Arena) -> None:
    """What needs none goes on, policy above all; the rest is pending, and done when there are."""
    late = Workload(8, field.host.rtnl)
    with running(field) as agent, monitored(field) as seen:
        wait_in_sync(field, agent)
        turns, failures = agent.statistics
        with no_descriptors_left():
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            agent.call(lambda: field.host.endpoint(field.open, ingress=PolicyList()))
            agent.call(lambda: field.host.endpoint(late))  # its sysctls cannot be written
            agent.audit()
            give_up = time.monotonic() + 5
            while agent.statistics[0] < turns + 2:
                assert time.monotonic() < give_up
                time.sleep(0.01)
            time.sleep(0.1)
            assert agent.failure is None, "no crash"
        agent.call(lambda: field.host.endpoint(field.open))
        agent.audit()
        wait_in_sync(field, agent)
        assert agent.statistics[1] - failures <= 3, "and no crowd of tries"
    assert seen.leaked == 0, str(seen)
    assert hears(field.attacker, field.open, 9200)
    assert hears(field.attacker, late, 9200)
    os.close(late.namespace)


KEY = ResourceKey("GlobalNetworkPolicy", "odd")
ODD: dict[str, dict[str, dict[str, object]]] = {
    "a label of 10 MB": {"metadata": {"labels": {"a": "x" * 10_000_000}}},
    "a selector of 10 MB": {"spec": {"selector": "a == 'x' || " * 800_000}},
    "brackets without end": {"spec": {"selector": "(" * 1_000_000}},
    "negations without end": {"spec": {"selector": "!" * 1_000_000 + "has(a)"}},
    "a set without end": {"spec": {"selector": "a in {" + "'x'," * 500_000 + "'x'}"}},
    "names without end": {"spec": {"selector": "has(" + "a" * 1_000_000 + ")"}},
    "rules without end": {"spec": {"ingress": [{"action": "Allow", "junk": "x" * 100}] * 50_000}},
}
LOOP_SECONDS = 1.0
"""Of processor; the next thing that the loop has to do waits no longer than so."""


@pytest.mark.parametrize("name", ODD)
def test_k26_no_object_holds_up_the_loop(name: str) -> None:
    """Whatever somebody stores is refused, or taken, in little time, and never by a crash."""
    body: dict[str, object] = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "odd"} | ODD[name].get("metadata", {}),
        "spec": ODD[name].get("spec", {}),
    }
    raw = json.dumps(body).encode()
    began = time.process_time()
    said = ""
    try:
        value = codec.decode(KEY, raw)
        assert isinstance(value, Resource)
        check(value, stored=True)
    except InvalidInput as error:
        said = str(error)
    assert time.process_time() - began < LOOP_SECONDS
    assert len(said) < 2000, "nor does it flood the log"
    assert said or name == "rules without end", "too large for what it is"
