"""docs/docker.md does what it says: its commands are run, section by section."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tests.docker.conftest import Hosts
from tests.docker.dockerd import IMAGE, Docker, eventually

from tortie.lab import cluster

pytestmark = pytest.mark.timeout(180)  # daemons, on a machine that may be busy

PAGE = Path(__file__).parents[2] / "docs" / "docker.md"
BLOCK = re.compile(r"^```sh (every|h1|h2)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "10.65.0.1"
"""What the page calls the address of `web`."""


def test_the_commands_of_the_page(hosts: Hosts) -> None:
    by_name = {"h1": hosts.h1, "h2": hosts.h2}
    for docker in by_name.values():
        docker.ok("tag", IMAGE, "busybox")
    found = BLOCK.findall(PAGE.read_text())
    assert len(found) == 9
    for where, script in found:
        web = by_name["h1"]("inspect", "-f", "{{.NetworkSettings.Networks.front.IPAddress}}", "web")
        text = script.replace(ADDRESS, web.stdout.strip() or "no-address")
        for name in by_name if where == "every" else (where,):
            docker = by_name[name]
            if "-p 8080" in text:  # these hosts have no bridge; test_beside does that
                continue
            if " nc -w" in text:  # routes and labels have a moment
                assert eventually(partial(passes, docker, text)), text
                continue
            done = run(docker, text)
            assert done.returncode == 0, (text, done.stderr)
    assert not hosts.left_overs()


def passes(docker: Docker, script: str) -> bool:
    return run(docker, script).returncode == 0


def run(docker: Docker, script: str) -> subprocess.CompletedProcess[str]:
    """As an operator on that host would: `docker` and `tortie` are in the path."""
    programs = docker.directory / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "docker").unlink(missing_ok=True)
    (programs / "docker").symlink_to("/usr/bin/docker")
    (programs / "tortie").unlink(missing_ok=True)
    (programs / "tortie").symlink_to(Path(sys.executable).parent / "tortie")
    return subprocess.run(
        ["bash", "-ec", script],
        capture_output=True, text=True, check=False, timeout=60,
        env={
            **os.environ, **cluster.environment(docker.lab),
            "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(docker.directory),
            "DOCKER_HOST": f"unix://{docker.socket}",
        },
    )  # fmt: skip
