"""One host: the attach service with CNI, in a thread; and its plugins, as a runtime starts them."""

import asyncio
import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from tests.unit.ipam.invariants import allocated, check

from tortie.attach import namespaces
from tortie.attach.addition import Settings
from tortie.attach.attacher import Attacher
from tortie.attach.cni.conflist import default_conflist
from tortie.attach.cni.service import CniService
from tortie.attach.journal import Journal
from tortie.attach.plumbing import Veths
from tortie.attach.server import Server
from tortie.cni import install
from tortie.datastore.embedded import EmbeddedClient
from tortie.datastore.resources import Resources
from tortie.kernel import netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import Unavailable
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

T = TypeVar("T")

DEBIAN_PLUGINS = Path("/usr/lib/cni")
POOLS = {"v4": "10.65.0.0/24", "v6": "fd00:65::/116"}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Host:
    """Not running until `start`; stopping it is as a crash of the agent, but for what is open."""

    def __init__(self, directory: Path, name: str = "h1", perl: str = "") -> None:
        self.directory = directory
        self.name = name
        self.bin_dir = directory / "bin"
        self.enforced: Callable[[int, float], Coroutine[Any, Any, None]] = self._at_once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._helper = namespaces.start()
        self.places = install.Places(
            directory / "run" / "attach.sock", directory / "spool", perl=perl
        )
        conflist = default_conflist(kubernetes=False, ipv6=False)
        install.install(self.bin_dir, None, self.places, conflist)
        for found in DEBIAN_PLUGINS.iterdir():
            with contextlib.suppress(FileExistsError):
                (self.bin_dir / found.name).symlink_to(found)

    async def _at_once(self, revision: int, timeout_seconds: float) -> None:
        """The agent's part: routes and rules follow the endpoint."""

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "attach.sock"

    def start(self) -> None:
        started = threading.Event()

        async def serve() -> None:
            client = EmbeddedClient(self.directory / "datastore.db")
            attacher = Attacher(
                Settings(self.name),
                client,
                Veths(self._helper),
                Journal(self.directory / "journal"),
                lambda revision, seconds: self.enforced(revision, seconds),
            )
            server = Server(
                attacher, self.socket, CniService(attacher, client, self.directory / "spool")
            )
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(server.run())
            while not self.socket.exists():
                await asyncio.sleep(0.005)
            started.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await client.close()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self._thread.start()
        assert started.wait(10)

    def stop(self) -> None:
        if self._thread is not None:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        self._helper.close()

    # What a runtime does.

    def command(
        self,
        command: str,
        config: Mapping[str, Any] | str,
        container: str = "",
        netns: str = "",
        ifname: str = "eth0",
        args: str = "",
        plugin: str = "",
        **more: str,
    ) -> Outcome:
        """Start the plugin that the configuration names, with nothing but CNI's environment."""
        text = config if isinstance(config, str) else json.dumps(config)
        if not plugin:
            assert not isinstance(config, str)
            plugin = config["type"]
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": str(self.bin_dir),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            **more,
        }
        done = subprocess.run(
            [self.bin_dir / plugin],
            input=text,
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def ok(self, command: str, config: Mapping[str, Any], *arguments: str, **named: str) -> Any:
        """The result; None where CNI has none."""
        outcome = self.command(command, config, *arguments, **named)
        assert outcome.code == 0, outcome
        return outcome.json if outcome.out else None

    def refused(
        self, command: str, config: Mapping[str, Any] | str, *arguments: str, **named: str
    ) -> Any:
        """The error object."""
        outcome = self.command(command, config, *arguments, **named)
        assert outcome.code == 1, outcome
        return outcome.json

    # What there is.

    def with_client(self, act: Callable[[EmbeddedClient], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            client = EmbeddedClient(self.directory / "datastore.db")
            try:
                return await act(client)
            finally:
                await client.close()

        return asyncio.run(run())

    @contextlib.contextmanager
    def datastore_away(self) -> Iterator[None]:
        """Every call of the service's client fails, as with no datastore to be reached."""
        calls = ("transact", "list", "get", "delete", "put", "create", "update")
        before = {name: getattr(EmbeddedClient, name) for name in calls}

        async def away(*_: object, **__: object) -> NoReturn:
            raise Unavailable("the datastore is away")

        for name in before:
            setattr(EmbeddedClient, name, away)
        try:
            yield
        finally:
            for name, call in before.items():
                setattr(EmbeddedClient, name, call)

    def make_pools(self, pools: Mapping[str, str] = POOLS) -> None:
        async def make(client: EmbeddedClient) -> None:
            for name, cidr in pools.items():
                spec = IPPoolSpec(cidr=cidr)
                pool = IPPool(kind="IPPool", metadata=Metadata(name=name), spec=spec)
                await Resources(client).create(pool)

        self.with_client(make)

    def set_ready(self, ready: bool) -> None:
        """As `tortie datastore migrate lock` and `unlock` do."""

        async def put(client: EmbeddedClient) -> None:
            key = ResourceKey("ClusterInformation", "default")
            value = {
                "kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3",
                "metadata": {"name": "default"}, "spec": {"datastoreReady": ready},
            }  # fmt: skip
            await client.put(key.path, json.dumps(value).encode())

        self.with_client(put)

    def entries(self) -> dict[str, bytes]:
        async def read(client: EmbeddedClient) -> dict[str, bytes]:
            return {entry.key: entry.value for entry in (await client.list("/calico/")).entries}

        found = self.with_client(read)
        assert check(found) == []
        return found

    def endpoints(self) -> dict[str, Any]:
        """By name."""
        return {
            key.rpartition("/")[2]: json.loads(value)
            for key, value in self.entries().items()
            if "/workloadendpoints/" in key
        }

    def addresses(self) -> dict[str, str]:
        return allocated(self.entries())

    def links(self) -> list[str]:
        with Rtnl.open() as rtnl:
            return sorted(link.name for link in rtnl.links() if link.name.startswith("cali"))

    def left_overs(self) -> list[object]:
        """A DEL's link follows its answer; so what is there stays there for a second, too."""
        give_up = time.monotonic() + 2.0
        while (found := self._left_overs()) and time.monotonic() < give_up:
            time.sleep(0.02)
        return found

    def _left_overs(self) -> list[object]:
        return [
            *self.endpoints(),
            *self.addresses(),
            *self.links(),
            *(self.directory / "journal").iterdir(),
            *((self.directory / "spool").iterdir() if (self.directory / "spool").exists() else ()),
        ]


class Containers:
    """Network namespaces as runtimes make them."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def new(self) -> str:
        descriptor = netns.create_anonymous()
        self._open.append(descriptor)
        return f"/proc/{os.getpid()}/fd/{descriptor}"

    def end(self, path: str) -> None:
        descriptor = int(path.rpartition("/")[2])
        self._open.remove(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


@contextlib.contextmanager
def running_host(directory: Path, perl: str = "") -> Iterator[Host]:
    host = Host(directory, perl=perl)
    try:
        host.make_pools()
        host.start()
        yield host
    finally:
        host.close()


def network(version: str | None = "1.0.0", **more: Any) -> dict[str, Any]:
    """One plugin's configuration, as runtimes pass it."""
    found = {"name": "net1", "type": "tortie", "ipam": {"type": "tortie-ipam"}, **more}
    return found if version is None else {"cniVersion": version, **found}
