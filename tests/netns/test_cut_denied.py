"""Connections that policy denies by now are looked for in a thread: nobody waits for the kernel's
list of them, and they are cut when it is there."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator

import pytest
from tests.netns.dataplane_host import BRIEF, Host, Talk, Workload, hears, workloads

from tortie.dataplane import dataplane
from tortie.dataplane.dataplane import Dataplane
from tortie.desired.policy import PolicyList
from tortie.kernel.conntrack import Conntrack, Flow
from tortie.kernel.netlink import NETLINK_NETFILTER
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.lib.errors import KernelBusy
from tortie.lib.ip import Network

pytestmark = pytest.mark.usefixtures("netns")

PATIENCE_SECONDS = 30


class SlowConntrack(Conntrack):
    """Lists flows, then keeps them until told; or fails."""

    def __init__(self, sock: NetlinkSocket) -> None:
        super().__init__(sock)
        self.listed, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()
        self.fails = False
        self.asked: list[frozenset[Network]] = []

    def flows_involving(self, addresses: frozenset[Network]) -> list[Flow]:  # type: ignore[override]
        self.asked.append(addresses)
        found = super().flows_involving(addresses)
        self.listed.set()
        assert self.may_go.wait(PATIENCE_SECONDS)
        if self.fails:
            raise KernelBusy("list flows")
        return found


class Scene:
    """Clients a speaks to b and to c; `found` says when an apply is wanted."""

    def __init__(self, host: Host, a: Workload, b: Workload, c: Workload) -> None:
        self.host, self.a, self.b, self.c = host, a, b, c
        self.table = SlowConntrack(NetlinkSocket.open(NETLINK_NETFILTER))
        self.found = asyncio.Event()
        self.dataplane = host.dataplane = Dataplane(
            host.settings, host.nft, host.rtnl, self.table, on_found=self.found.set
        )
        host.allow_all_profile()
        for one in (a, b, c):
            host.endpoint(one)
        self.talk = Talk(a, b, 80)

    async def begin(self) -> None:
        """Policy may have tightened before the start, so that looks for connections, too."""
        await self.dataplane.apply()
        await self.until_found()
        await self.dataplane.apply()
        self.table.listed.clear()
        self.table.may_go.clear()
        assert self.talk.goes_on()

    async def until_found(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.found.wait()
        self.found.clear()

    async def until_listed(self) -> None:
        assert await asyncio.to_thread(self.table.listed.wait, PATIENCE_SECONDS)

    def run(self, act: Callable[[], Coroutine[None, None, None]]) -> None:
        async def and_let_go() -> None:
            try:
                await self.begin()
                await act()
            finally:
                self.table.may_go.set()

        asyncio.run(and_let_go())


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(dataplane, "CUT_PAUSE", 0)
    host = Host()
    with workloads(host, 3) as (a, b, c):
        made = Scene(host, a, b, c)
        yield made
        made.talk.close()
        made.table.close()
    host.close()


def test_later_changes_do_not_wait_for_the_search(scene: Scene) -> None:
    async def act() -> None:
        scene.host.endpoint(scene.b, ingress=PolicyList())
        await scene.dataplane.apply()
        await scene.until_listed()
        assert scene.dataplane.is_cutting
        assert scene.dataplane.retry_seconds is None, "on_found says when"
        assert not hears(scene.a, scene.b, 81, patience=BRIEF), "new connections are denied already"
        assert scene.talk.goes_on()
        assert hears(scene.a, scene.c, 81)
        scene.host.endpoint(scene.c, ingress=PolicyList())
        await scene.dataplane.apply()
        assert not hears(scene.a, scene.c, 82, patience=BRIEF), "a later change is in force"
        assert scene.dataplane.is_cutting
        scene.table.may_go.set()
        await scene.until_found()
        await scene.dataplane.apply()
        assert not scene.talk.goes_on(patience=BRIEF)
        assert scene.dataplane.statistics().connections_cut == 1
        assert not scene.dataplane.is_cutting
        # Whoever became suspect meanwhile is not forgotten.
        assert scene.dataplane.retry_seconds is not None
        await scene.dataplane.apply()
        await scene.until_found()
        await scene.dataplane.apply()
        assert scene.table.asked[-1] >= {scene.c.ipv4, scene.c.ipv6}
        assert scene.dataplane.statistics().connections_cut == 2
        assert not scene.dataplane.is_cutting
        assert scene.dataplane.retry_seconds is None

    scene.run(act)


def test_what_is_allowed_again_when_the_list_comes_goes_on(scene: Scene) -> None:
    async def act() -> None:
        scene.host.endpoint(scene.b, ingress=PolicyList())
        await scene.dataplane.apply()
        await scene.until_listed()
        scene.host.endpoint(scene.b)
        scene.table.may_go.set()
        await scene.until_found()
        await scene.dataplane.apply()
        assert scene.dataplane.statistics().connections_cut == 0
        assert scene.talk.goes_on()

    scene.run(act)


def test_a_search_that_fails_is_made_again(scene: Scene) -> None:
    async def act() -> None:
        scene.table.fails = True
        scene.host.endpoint(scene.b, ingress=PolicyList())
        await scene.dataplane.apply()
        scene.table.may_go.set()
        await scene.until_found()
        with pytest.raises(KernelBusy):
            await scene.dataplane.apply()
        assert scene.talk.goes_on()
        scene.table.fails = False
        await scene.dataplane.apply()
        await scene.until_found()
        await scene.dataplane.apply()
        assert not scene.talk.goes_on(patience=BRIEF)
        assert scene.dataplane.statistics().connections_cut == 1

    scene.run(act)
