"""Several controllers, one Lease, a real API server; times shortened."""

import asyncio
import itertools

import pytest
from tests.kube.control_plane import CONTROLLERS, ControlPlane

from tortie.kube import leader
from tortie.kube.api import HttpApi, Name
from tortie.kube.leader import Election
from tortie.lib import kubeconfig

numbers = itertools.count()


@pytest.fixture
def api_of(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    monkeypatch.setattr(leader, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(leader, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(leader, "GIVE_UP_SECONDS", 1.0)
    return control_plane


class Worker:
    """Notes when it leads."""

    def __init__(self, plane: ControlPlane, lease: str, name: str) -> None:
        self.api = HttpApi(kubeconfig.read(plane.kubeconfig()))
        self.election = Election(self.api, Name("kube-system", lease), name)
        self.leads = asyncio.Event()
        self.stopped = asyncio.Event()
        self.task = asyncio.create_task(self.election.lead(self.work))

    async def work(self) -> None:
        self.leads.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.leads.clear()
            self.stopped.set()

    async def crash(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.api.close()


async def within(event: asyncio.Event, seconds: float = 15.0) -> None:
    await asyncio.wait_for(event.wait(), seconds)


def test_one_leads_at_a_time_and_another_takes_over_from_the_dead(api_of: ControlPlane) -> None:
    async def run() -> None:
        lease = f"test-{next(numbers)}"
        first = Worker(api_of, lease, "first")
        await within(first.leads)
        second = Worker(api_of, lease, "second")
        await asyncio.sleep(2.5)  # longer than the lease: it is renewed
        assert first.leads.is_set()
        assert not second.leads.is_set()
        await first.crash()
        await within(second.leads)
        await second.crash()

    asyncio.run(run())


def test_who_steps_down_is_followed_long_before_the_lease_ends(
    api_of: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "LEASE_SECONDS", 60.0)

    async def run() -> None:
        lease = f"test-{next(numbers)}"
        first = Worker(api_of, lease, "first")
        await within(first.leads)
        second = Worker(api_of, lease, "second")
        await asyncio.sleep(0.5)
        first.task.cancel()
        await asyncio.gather(first.task, return_exceptions=True)
        assert not second.leads.is_set()
        await first.election.step_down()
        await within(second.leads)
        await first.crash()
        await second.crash()

    asyncio.run(run())


def test_who_cannot_reach_the_server_stops_before_anybody_else_may_begin(
    api_of: ControlPlane,
) -> None:
    async def run() -> None:
        only = Worker(api_of, f"test-{next(numbers)}", "only")
        await within(only.leads)
        api_of.kill("kube-apiserver")
        try:
            started = asyncio.get_running_loop().time()
            await within(only.stopped, 5.0)
            assert asyncio.get_running_loop().time() - started < leader.LEASE_SECONDS
        finally:
            await asyncio.to_thread(api_of.start_api)
        await only.crash()

    asyncio.run(run())


def test_the_controllers_account_may_use_its_own_lease_and_no_other(api_of: ControlPlane) -> None:
    async def run() -> None:
        api = HttpApi(kubeconfig.read(api_of.kubeconfig(CONTROLLERS, "lease.conf")))
        try:
            mine = Election(api, Name("kube-system", "tortie-kube-controllers"), "me")
            led = asyncio.Event()

            async def work() -> None:
                led.set()

            await asyncio.wait_for(mine.lead(work), 15.0)
            assert led.is_set()
            await mine.step_down()
            other = Election(api, Name("kube-system", "somebody-elses"), "me")
            assert not await other._try_to_hold()
        finally:
            await api.close()

    asyncio.run(run())
