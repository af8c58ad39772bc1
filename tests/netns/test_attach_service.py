"""The attach service with real veths, a real datastore, and a real SIGKILL at every step."""

import asyncio
import mmap
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.leftovers import is_running
from tests.unit.ipam.invariants import allocated, check

from tortie.attach import namespaces
from tortie.attach.addition import Settings
from tortie.attach.attacher import Attacher
from tortie.attach.client import Client as AttachClient
from tortie.attach.journal import Journal
from tortie.attach.namespaces import Namespaces
from tortie.attach.plumbing import Veths
from tortie.attach.requests import Add, Attached, Check, Remove
from tortie.attach.server import Server
from tortie.datastore.embedded import EmbeddedClient
from tortie.datastore.resources import Resources
from tortie.kernel import netns as kernel_netns
from tortie.kernel import sysctl
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.route import SCOPE_LINK, Route
from tortie.lib.ip import parse_address
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

HOST_ADDRESS = "192.0.2.1"
MOST_STEPS = 200


class Host:
    """One host: its datastore file, its state directory, the namespace we are in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.namespaces: Namespaces

    def attacher(self, client: EmbeddedClient) -> Attacher:
        async def enforced(revision: int, timeout_seconds: float) -> None:
            """The agent's part: routes and sysctls follow the endpoint."""

        journal = Journal(self.directory / "journal")
        return Attacher(Settings("h1"), client, Veths(self.namespaces), journal, enforced)

    def run(self, work: Callable[[Attacher, EmbeddedClient], Any]) -> Any:
        async def go() -> Any:
            client = EmbeddedClient(self.directory / "datastore.db")
            try:
                return await work(self.attacher(client), client)
            finally:
                await client.close()

        return asyncio.run(go())

    def add(self, path: str, workload: str = "web") -> Attached:
        request = Add(namespace="prod", workload=workload, netns=path, families=(4, 6))
        found = self.run(lambda attacher, _: attacher.add(request))
        assert isinstance(found, Attached)
        return found

    def remove(self, workload: str = "web") -> bool:
        request = Remove(namespace="prod", workload=workload)
        return bool(self.run(lambda attacher, _: attacher.remove(request)).found)

    def left_overs(self) -> list[str]:
        async def entries(_: Attacher, client: EmbeddedClient) -> dict[str, bytes]:
            listing = await client.list("/calico/")
            return {entry.key: entry.value for entry in listing.entries}

        stored = self.run(entries)
        assert check(stored) == []
        with Rtnl.open() as rtnl:
            links = [link.name for link in rtnl.links() if link.name != "lo"]
        return [
            *links,
            *allocated(stored),
            *(path for path in stored if "workloadendpoints" in path),
            *(path.name for path in (self.directory / "journal").iterdir()),
        ]


@pytest.fixture
def host(netns: None, tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    made.namespaces = namespaces.start()

    async def prepare(_: Attacher, client: EmbeddedClient) -> None:
        for name, cidr in (("v4", "10.65.0.0/24"), ("v6", "fd00:65::/116")):
            pool = IPPool(kind="IPPool", metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr))
            await Resources(client).create(pool)

    made.run(prepare)
    yield made
    made.namespaces.close()


@pytest.fixture
def workload() -> Iterator[str]:
    descriptor = kernel_netns.create_anonymous()
    yield f"/proc/{os.getpid()}/fd/{descriptor}"
    os.close(descriptor)


def test_add_gives_a_workload_that_reaches_the_host(host: Host, workload: str) -> None:
    found = host.add(workload)
    subprocess.run(["ip", "addr", "add", HOST_ADDRESS, "dev", "lo"], check=True)
    sysctl.set_global("ipv4/ip_forward", 1)
    address = parse_address(found.addresses[0])
    with Rtnl.open() as rtnl:
        index = rtnl.link(found.interface).index
        rtnl.replace_route(Route(destination=address, interface=index, scope=SCOPE_LINK))
    with socket.create_server((HOST_ADDRESS, 0)) as listener:
        port = listener.getsockname()[1]

        def connect() -> str:
            with socket.create_connection((HOST_ADDRESS, port), timeout=2) as sock:
                return str(sock.getsockname()[0])

        assert kernel_netns.run_in(workload, connect) == address.address_text


def test_again_and_again(host: Host, workload: str) -> None:
    first = host.add(workload)
    again = host.add(workload)
    assert (again.addresses, again.interface, again.mac) == (
        first.addresses,
        first.interface,
        first.mac,
    )
    assert host.remove() is True
    assert host.remove() is False
    assert host.left_overs() == []


def test_remove_after_the_workload_is_gone(host: Host) -> None:
    descriptor = kernel_netns.create_anonymous()
    host.add(f"/proc/{os.getpid()}/fd/{descriptor}")
    os.close(descriptor)
    assert host.remove() is True
    assert host.left_overs() == []


def test_through_the_socket(host: Host, workload: str) -> None:
    path = host.directory / "run" / "attach.sock"

    async def serve(attacher: Attacher, _: EmbeddedClient) -> None:
        task = asyncio.create_task(Server(attacher, path).run())
        while not path.exists():
            await asyncio.sleep(0.01)
        await asyncio.to_thread(talk)
        task.cancel()

    def talk() -> None:
        with AttachClient(path) as client:
            found = client.add(namespace="prod", workload="web", netns=workload)
            assert client.check(namespace="prod", workload="web") == []
            with Rtnl.open() as rtnl:
                assert rtnl.link(found["interface"]).up
            assert client.remove(namespace="prod", workload="web")["found"] is True

    host.run(serve)
    assert host.left_overs() == []


def test_l4_a_kill_at_any_step_of_add_leaves_nothing(host: Host, workload: str) -> None:
    for step in range(1, MOST_STEPS):
        killed = die_at(step, host, lambda: host.add(workload))
        host.run(lambda attacher, _: attacher.recover())
        if not killed:
            break
        host.remove()
        assert host.left_overs() == [], f"killed at step {step}"
    assert step > 30
    host.remove()


def test_l4_a_kill_at_any_step_of_remove_is_finished(host: Host, workload: str) -> None:
    for step in range(1, MOST_STEPS):
        host.add(workload)
        killed = die_at(step, host, host.remove)
        assert host.run(lambda attacher, _: attacher.recover()) is True
        if not killed:
            break
        host.remove()
        assert host.left_overs() == [], f"killed at step {step}"
    assert step > 10


def test_an_add_after_a_kill_works(host: Host, workload: str) -> None:
    for step in range(1, MOST_STEPS, 4):
        killed = die_at(step, host, lambda: host.add(workload))
        found = host.add(workload)
        assert len(found.addresses) == 2
        problems = host.run(
            lambda attacher, _: attacher.check(Check(namespace="prod", workload="web"))
        ).problems
        assert problems == (), f"killed at step {step}"
        host.remove()
        assert host.left_overs() == []
        if not killed:
            break


def die_at(step: int, host: Host, work: Callable[[], object]) -> bool:
    """Do `work` in a process that is killed at a step of it; False if it ended first.

    A step is a message to the kernel, its helper's too, a call of the datastore, or a change of
    the journal's files; the process dies before every odd and after every
    even one.
    """
    shared = _Shared()
    child = os.fork()
    if child == 0:
        _work_and_die(step, host, work, shared)
    _, status = os.waitpid(child, 0)
    while is_running(shared.helper_pid):
        time.sleep(0.001)  # it is killed with its agent, which is a moment later
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed of itself"
    return False


class _Shared:
    """Numbers that an agent, its helper and the test see."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, 8)).cast("i")

    def count(self) -> int:
        self._memory[0] += 1
        return self._memory[0]

    @property
    def helper_pid(self) -> int:
        return self._memory[1]

    @helper_pid.setter
    def helper_pid(self, value: int) -> None:
        self._memory[1] = value


def _work_and_die(step: int, host: Host, work: Callable[[], object], shared: _Shared) -> NoReturn:
    agent = os.getpid()

    def count() -> None:
        if shared.count() == step:
            os.kill(agent, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call: Any) -> Any:
        def around(*arguments: Any, **named: Any) -> Any:
            count()
            result = call(*arguments, **named)
            count()
            return result

        return around

    def counted_later(call: Any) -> Any:
        async def around(*arguments: Any, **named: Any) -> Any:
            count()
            result = await call(*arguments, **named)
            count()
            return result

        return around

    code = 1
    try:
        NetlinkSocket.send = counted(NetlinkSocket.send)  # type: ignore[method-assign]
        host.namespaces = namespaces.start()
        shared.helper_pid = host.namespaces.helper_pid
        for name in ("transact", "list", "get"):
            setattr(EmbeddedClient, name, counted_later(getattr(EmbeddedClient, name)))
        for name in ("write", "fsync", "unlink"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        host.namespaces.close()
        code = 0
    finally:
        os._exit(code)
