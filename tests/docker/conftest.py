"""Two lab hosts, each with dockerd and the service; shared by all tests here."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.docker.dockerd import QUIET, Docker
from tests.e2e.live import LiveLab, need_root


class Hosts(NamedTuple):
    live: LiveLab
    h1: Docker
    h2: Docker

    def apply(self, text: str) -> None:
        self.live.apply(text, self.h1.directory)

    def endpoints(self) -> dict[str, str]:
        """WorkloadEndpoints of Docker: key and value."""
        return {
            key: entry.value.decode()
            for key, entry in self.live.entries("/calico/resources/").items()
            if "/workloadendpoints/libnetwork/" in key
        }

    def handles(self) -> list[str]:
        return [key for key in self.live.entries("/calico/ipam/") if "/handle/libnetwork." in key]

    def left_overs(self) -> list[str]:
        """What containers have, and nothing else does."""
        links = [
            line.split(":")[1].strip()
            for host in self.live.lab.hosts
            for line in self.live.command_in(host.name, "ip", "-o", "link").stdout.splitlines()
            if line.split(":")[1].strip().startswith(("cali", "tmp"))
        ]
        return [*self.endpoints(), *self.handles(), *links]


@pytest.fixture(scope="package")
def shared_hosts() -> Iterator[Hosts]:
    need_root()
    live = LiveLab(f"dk{os.getpid()}", "embedded", "direct", hosts=2)
    live.up()
    # Short: sockets lie below, and their paths have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="dk") as directory:
        found = [Docker(live.lab, host, Path(directory) / host.name, QUIET)
                 for host in live.lab.hosts]  # fmt: skip
        try:
            for docker in found:
                docker.start()
                docker.import_image()
            yield Hosts(live, *found)
        finally:
            for docker in found:
                docker.close()
            live.down()


@pytest.fixture
def hosts(shared_hosts: Hosts) -> Iterator[Hosts]:
    """Without containers, networks and policies of other tests, before and after."""
    with shared_hosts.live.restored():
        yield shared_hosts
        for docker in (shared_hosts.h1, shared_hosts.h2):
            docker.clean_up()
