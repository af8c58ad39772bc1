"""docs/quickstart.md, word by word, on three machines (the fixture `cluster` plays it)."""

import subprocess

import pytest
from tests.hosts.conftest import Machines
from tests.hosts.quickstart import PAGE, packages, steps


def test_the_page(cluster: Machines) -> None:
    """It was played to its end; and it says what it seems to say."""
    script = list(steps(PAGE.read_text()))
    assert [step.expected for step in script if step.host == "h2"][-3:-1] == ["open", "closed"]
    for machine in cluster.values():
        units = machine.systemctl("is-active", "tortie-agent", "tortie-bird", "tortie-keeper")
        assert units.split() == ["active"] * 3


@pytest.mark.parametrize("package", sorted(packages(PAGE.read_text()) - {"python3-venv"}))
def test_its_packages_are_debians(package: str) -> None:
    """Those of the page are there, so the steps rested on them and on nothing else."""
    asked = ["dpkg-query", "-W", "-f", "${Status}", package]
    assert "ok installed" in subprocess.run(asked, capture_output=True, text=True).stdout
