"""docs/openstack.md does what it says: Neutron runs with its configuration, and its commands."""

import configparser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.openstack.cloud import Cloud
from tests.openstack.conftest import Releases
from tests.openstack.server import VERSIONS

pytestmark = pytest.mark.timeout(300)  # a command of OpenStack's is seconds of imports

PAGE = Path(__file__).parents[2] / "docs" / "openstack.md"
BLOCK = re.compile(r"^```(ini|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=VERSIONS)
def cloud_of_the_page(
    request: pytest.FixtureRequest, release: Releases, tmp_path: Path
) -> Iterator[Cloud]:
    (text,) = (body for kind, body in BLOCK.findall(PAGE.read_text()) if kind == "ini")
    found = configparser.ConfigParser()
    found.read_string(text)
    settings = {section: dict(found[section]) for section in found.sections()}
    assert settings["calico"].pop("etcd_host") == "192.0.2.11"
    made = Cloud(release(request.param), tmp_path, f"page{request.param}", settings=settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_the_configuration_and_the_commands_of_the_page(cloud_of_the_page: Cloud) -> None:
    cloud = cloud_of_the_page
    ran = 0
    for line in "".join(body for kind, body in BLOCK.findall(PAGE.read_text())).splitlines():
        command, _, comment = line.partition(" # ")
        if not command.startswith("openstack "):
            continue
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            capture_output=True,
            text=True,
            env={
                "PATH": "/usr/bin:/bin",
                "OS_AUTH_TYPE": "none",
                "OS_ENDPOINT": f"http://127.0.0.1:{cloud.neutron.port}",
            },
        )
        assert done.returncode == 0, (command, done.stderr)
        _, arrow, expected = comment.partition("→ ")
        if arrow:
            assert expected.strip() in done.stdout, (command, done.stdout)
        ran += 1
    assert ran == 10
    (port,) = cloud.neutron.list("port", "?name=vm1")
    cloud.report(port, "h1", "up")
    cloud.becomes(port["id"], "ACTIVE")
    (web,) = port["security_groups"]
    assert cloud.policy(web)["ingress"]
