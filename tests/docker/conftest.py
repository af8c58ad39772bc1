"""Two lab hosts, each with dockerd and the service; shared by all tests here."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.docker.dockerd import QUIET, Docker
from tests.e2e.live import LiveLab, running_lab


class Hosts(NamedTuple):
    live: LiveLab
    h1: Docker
    h2: Docker

    @property
    def dockers(self) -> tuple[Docker, Docker]:
        return self.h1, self.h2

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


@contextmanager
def two_hosts(prefix: str, options: Sequence[str], datastore: str = "embedded") -> Iterator[Hosts]:
    """On which nothing of Docker runs yet.

    Args:
        prefix: of the lab's name, and of that of a folder. Short: sockets lie below, and their
            paths have at most 107 characters.
        options: of dockerd.
    """
    with (
        tempfile.TemporaryDirectory(prefix=prefix) as directory,
        running_lab(prefix, datastore, hosts=2) as live,
    ):
        found: list[Docker] = []
        try:
            for host in live.lab.hosts:
                found.append(Docker(live.lab, host, Path(directory) / host.name, options))
            yield Hosts(live, *found)
        finally:
            for docker in found:
                docker.close()


@pytest.fixture(scope="package")
def shared_hosts() -> Iterator[Hosts]:
    with two_hosts("dk", QUIET) as made:
        for docker in made.dockers:
            docker.start()
            docker.import_image()
        yield made


@pytest.fixture
def hosts(shared_hosts: Hosts) -> Iterator[Hosts]:
    """Without containers, networks and policies of other tests, before and after."""
    with shared_hosts.live.restored():
        yield shared_hosts
        for docker in shared_hosts.dockers:
            docker.clean_up()
