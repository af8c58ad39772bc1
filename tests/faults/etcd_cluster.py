"""An etcd of three members, each in a network of its own, and links that can be cut.

e1 ── fab ── e2        fab is a bridge, where the clients of the test are, too;
       │               rules on it lose frames without a word, as a broken switch does
       e3
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.datastore.credentials import etcdctl
from tests.datastore.etcd_server import EtcdServer

from tortie.kernel import netns

T = TypeVar("T")

CLIENT_ADDRESS = "10.99.0.254"


class EtcdCluster:
    def __init__(self, folder: Path) -> None:
        prefix = f"dfault{os.getpid()}"
        self.fabric = f"{prefix}-fab"
        self._names = [f"{prefix}-e{number}" for number in (1, 2, 3)]
        self.members = [
            EtcdServer(
                folder / f"e{number}",
                ["--heartbeat-interval=50", "--election-timeout=500"],
                address=f"10.99.0.{number}",
                namespace=name,
            )
            for number, name in enumerate(self._names, 1)
        ]

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def up(self) -> None:
        netns.create_named(self.fabric)
        ip(self.fabric, "link set lo up")
        ip(self.fabric, "link add fab type bridge")
        ip(self.fabric, f"address add {CLIENT_ADDRESS}/24 dev fab")
        ip(self.fabric, "link set fab up")
        for number, name in enumerate(self._names, 1):
            netns.create_named(name)
            ip(name, "link set lo up")
            ip(self.fabric, f"link add e{number} type veth peer name eth0 netns {name}")
            ip(self.fabric, f"link set e{number} master fab up")
            ip(name, f"address add 10.99.0.{number}/24 dev eth0")
            ip(name, "link set eth0 up")
        for member in self.members:
            member.join(self.members)
            member.spawn()
        for member in self.members:
            member.wait()

    def down(self) -> None:
        for member in self.members:
            if member.process.poll() is None:
                member.kill()
        for name in (*self._names, self.fabric):
            netns.delete_named(name)

    def run(self, test: Callable[[], Awaitable[None]], patience: float = 50.0) -> None:
        """Beside the members; `cut` and `heal` may be called from inside."""

        async def main() -> None:
            async with asyncio.timeout(patience):
                await test()

        netns.run_in(netns.named_path(self.fabric), lambda: asyncio.run(main()))

    def leader(self) -> EtcdServer:
        """Waits until those that live have one."""
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            for member in self.members:
                if member.process.poll() is None and self._leads(member):
                    return member
            time.sleep(0.1)
        raise AssertionError("no member leads")

    def _leads(self, member: EtcdServer) -> bool:
        ask = partial(etcdctl, member, "endpoint", "status", "-w", "json")
        (found,) = json.loads(self.in_fabric(ask))
        status = found["Status"]
        return bool(status.get("leader") == status["header"]["member_id"])

    def in_fabric(self, function: Callable[[], T]) -> T:
        return netns.run_in(netns.named_path(self.fabric), function)

    def cut(self, *rules: str) -> None:
        """Lose frames: `forward iifname "e3"`, `input iifname "e1"`, `output oifname "e1"`."""
        lines = ["add table bridge cut"]
        for hook in ("forward", "input", "output"):
            chain = "{ type filter hook " + hook + " priority 0; }"
            lines.append(f"add chain bridge cut {hook} {chain}")
        for rule in rules:
            hook, _, match = rule.partition(" ")
            lines.append(f"add rule bridge cut {hook} {match} counter drop")
        self._nft("\n".join(lines))

    def lost(self) -> int:
        """Frames that cuts have lost: that the fault took place."""
        listed = self._nft("list table bridge cut")
        return sum(int(part.split()[0]) for part in listed.split("counter packets ")[1:])

    def heal(self) -> None:
        self._nft("delete table bridge cut")

    def _nft(self, script: str) -> str:
        return self.in_fabric(
            lambda: (
                subprocess.run(
                    ["nft", "-f", "-"], input=script, check=True, capture_output=True, text=True
                ).stdout
            )
        )


@contextmanager
def etcd_cluster(folder: Path) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(folder)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def ip(namespace: str, words: str) -> None:
    argv: Sequence[str] = ["ip", *words.split()]
    netns.run_in(
        netns.named_path(namespace),
        lambda: subprocess.run(argv, check=True, capture_output=True),
    )
