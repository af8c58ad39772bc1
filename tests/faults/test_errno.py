"""K7: each errno at each call into the kernel: tried again, set apart, or closed; never a crash."""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.attacks.arena import Arena
from tests.faults.agent import running
from tests.netns.dataplane_host import Workload

from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyId, PolicyList
from tortie.kernel import sysctl
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import TortieError, kernel_error

ERRNOS = (
    errno.EBUSY,
    errno.EINTR,
    errno.ENOMEM,
    errno.EEXIST,
    errno.ENOENT,
    errno.EAGAIN,
    errno.EMSGSIZE,
    errno.ENOBUFS,
    errno.EPERM,
    errno.EINVAL,
    errno.ENOSPC,
    errno.ENODEV,
)

DOORS = (
    *((Nft, name) for name in ("commit", "tables", "chains", "rules", "sets", "elements")),
    (Nft, "generation"),
    *((Rtnl, name) for name in ("links", "routes", "neighbours")),
    *((Rtnl, name) for name in ("add_routes", "replace_routes", "delete_routes")),
    *((Rtnl, name) for name in ("replace_neighbours", "delete_neighbours")),
    *((Conntrack, name) for name in ("flows_involving", "delete_involving", "delete")),
)
PER_OBJECT = {
    "add_routes",
    "replace_routes",
    "delete_routes",
    "replace_neighbours",
    "delete_neighbours",
}
"""These answer for each object; they raise only when the socket itself fails."""

TABLES = ("inet tortie", "arp tortie")


class Shim:
    """Fails the n-th call through any door, once."""

    def __init__(self, fail_at: int = 0, code: int = 0) -> None:
        self.calls: list[str] = []
        self._fail_at = fail_at
        self._code = code

    @property
    def fired(self) -> bool:
        return 0 < self._fail_at <= len(self.calls)

    def enter(self, name: str) -> TortieError | None:
        self.calls.append(name)
        if len(self.calls) == self._fail_at:
            return kernel_error(f"injected into {name}", self._code)
        return None


@contextmanager
def shimmed(shim: Shim) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for owner, name in DOORS:
        patch.setattr(owner, name, _wrap(shim, name, getattr(owner, name)))
    for name in ("_write", "_read"):
        patch.setattr(sysctl, name, _wrap(shim, f"sysctl{name}", getattr(sysctl, name)))
    try:
        yield
    finally:
        patch.undo()


def _wrap(shim: Shim, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    async def later(*args: Any, **keywords: Any) -> Any:
        error = shim.enter(name)
        if error is not None:
            raise error
        return await real(*args, **keywords)

    def now(*args: Any, **keywords: Any) -> Any:
        if name in PER_OBJECT and not args[1]:
            return real(*args, **keywords)
        error = shim.enter(name)
        if error is None:
            return real(*args, **keywords)
        if name not in PER_OBJECT:
            raise error
        # One object is refused, the others are done.
        outcomes = real(args[0], list(args[1])[1:], **keywords)
        return [error, *outcomes]

    return later if asyncio.iscoroutinefunction(real) else now


def change(field: Arena) -> None:
    """There: `guarded` goes, `open` is told anew, a policy comes."""
    field.host.policy("new", ingress=())
    field.host.remove(field.guarded)
    field.host.endpoint(field.open, egress=PolicyList())


def change_back(field: Arena) -> None:
    field.host.update(Kind.POLICY, PolicyId("GlobalNetworkPolicy", "new"), None)
    field.host.endpoint(field.guarded, ingress=PolicyList())
    field.host.endpoint(field.open)


def dump(field: Arena) -> tuple[list[str], frozenset[str]]:
    routes = frozenset(str(one) for one in field.host.rtnl.routes(protocol=80))
    return field.host.ruleset(*TABLES), routes


def _settle(field: Arena, act: Callable[[], None], what: str) -> int:
    """Call until all is done; how many calls failed. Only our own errors may come out."""
    failures = 0
    for _ in range(6):
        try:
            act()
        except TortieError:
            failures += 1
            act = field.host.apply
            continue
        if field.host.dataplane.in_sync:
            return failures
        act = field.host.resync  # refused objects are for the audit
    raise AssertionError(f"{what}: never in sync")


@pytest.mark.parametrize("code", ERRNOS, ids=errno.errorcode.get)
def test_k7_every_call_fails_once(field: Arena, code: int) -> None:
    before = dump(field)
    change(field)
    field.host.apply()
    after = dump(field)
    change_back(field)
    clean = Shim()
    with shimmed(clean):
        field.host.resync()
    assert dump(field) == before
    assert set(clean.calls) >= {"commit", "links", "routes", "generation", "sysctl_read"}
    # Many sysctls are read in one go: the first three stand for all.
    points = [
        number
        for number, name in enumerate(clean.calls, start=1)
        if name != "sysctl_read" or clean.calls[:number].count(name) <= 3
    ]
    for point in points:
        shim = Shim(point, code)
        change(field)
        with shimmed(shim):
            _settle(field, field.host.resync, f"{clean.calls[point - 1]}, {os.strerror(code)}")
        assert shim.fired, "the fault took place"
        assert dump(field) == after, shim.calls[point - 1]
        change_back(field)
        field.host.resync()
        assert dump(field) == before


def test_k7_a_fresh_start_with_every_call_failing_once(field: Arena) -> None:
    """Links, tables and all are read back: more doors than in an audit where nothing differs."""
    before = dump(field)

    def start() -> None:
        field.host.restart()
        field.host.allow_all_profile()
        field.host.endpoint(field.attacker)
        field.host.endpoint(field.open)
        field.host.endpoint(field.guarded, ingress=PolicyList())
        field.host.resync()

    clean = Shim()
    with shimmed(clean):
        start()
    assert set(clean.calls) >= {"tables", "chains", "rules", "sets", "elements", "neighbours"}
    seen = set()
    for point, name in enumerate(clean.calls, start=1):
        if clean.calls[:point].count(name) > 2:
            continue
        for code in (errno.ENOBUFS, errno.EINVAL, errno.ENOENT):
            shim = Shim(point, code)
            with shimmed(shim):
                _settle(field, start, f"{name}, {os.strerror(code)}")
            assert shim.fired
            assert dump(field) == before, name
            seen.add(name)
    assert len(seen) >= 9, seen


@pytest.mark.parametrize("door", ["add_routes", "replace_neighbours", "sysctl_write"])
def test_k7_one_object_that_is_always_refused_stops_no_other(field: Arena, door: str) -> None:
    """A route, a neighbour, a sysctl that the kernel never takes: others converge at once."""
    bad, good = Workload(7, field.host.rtnl), Workload(8, field.host.rtnl)
    fired = 0
    real = getattr(sysctl, "_write") if door == "sysctl_write" else getattr(Rtnl, door)  # noqa: B009

    def refuse(*args: Any) -> Any:
        nonlocal fired
        if door == "sysctl_write":
            if "cali7" in args[0]:
                fired += 1
                raise kernel_error(door, errno.EINVAL)
            return real(*args)
        wanted = list(args[1])
        outcomes = []
        for one in wanted:
            if bad.ipv4 in (getattr(one, "destination", None), getattr(one, "address", None)):
                fired += 1
                outcomes.append(kernel_error(door, errno.EINVAL))
            else:
                outcomes += real(args[0], [one])
        return outcomes

    with pytest.MonkeyPatch.context() as patch:
        if door == "sysctl_write":
            patch.setattr(sysctl, "_write", refuse)
        else:
            patch.setattr(Rtnl, door, refuse)
        field.host.endpoint(bad)
        field.host.endpoint(good)
        field.host.read_link_events()
        field.host.apply()
        assert fired
        assert not field.host.dataplane.in_sync, "and it is told"
        assert field.host.dataplane.statistics().pending >= 1
        assert good.pings(field.open.ipv4)
        for _ in range(3):
            field.host.resync()
        assert good.pings(field.open.ipv4)
    field.host.resync()
    assert field.host.dataplane.in_sync
    assert bad.pings(field.open.ipv4)
    for one in (bad, good):
        os.close(one.namespace)


def test_k7_the_loop_does_not_give_up_at_once(field: Arena) -> None:
    """Three applies fail in a row; the agent goes on, and gets there."""

    failing = 3
    real = Nft.commit

    async def commit(self: Nft, *args: Any, **keywords: Any) -> Any:
        nonlocal failing
        if failing:
            failing -= 1
            raise kernel_error("commit", errno.EBUSY)
        return await real(self, *args, **keywords)

    with running(field) as agent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Nft, "commit", commit)
        agent.call(lambda: field.host.remove(field.guarded))
        give_up = time.monotonic() + 10
        while failing or not field.host.dataplane.in_sync:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        assert agent.statistics[1] >= 3
