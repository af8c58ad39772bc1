"""`tortie doctor`: what is wrong with this host, and what to do about it.

Each check is for itself: one that fails to find out says so and disturbs no
other. Numbers stay what they are, so that people and scripts can name them; a
check that goes leaves its number free.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tortie.agent.config import FELIX_CFG
from tortie.ctl import access, doctor_datastore, doctor_kernel, doctor_services
from tortie.ctl.diagnosis import Finding, Host, State, unknown
from tortie.ctl.grammar import Given
from tortie.ctl.node_close import run_directory, state_directory
from tortie.ctl.screen import Screen
from tortie.ctl.units import ENVIRONMENT_FILE
from tortie.lib.errors import InvalidInput, TortieError

EXIT_PROBLEMS = 1


class Check(NamedTuple):
    number: int
    name: str
    examine: Callable[[Host], Finding]


CHECKS = (
    Check(1, "kernel", doctor_kernel.requirements),
    Check(2, "nf_tables", doctor_kernel.answers),
    Check(3, "owned tables", doctor_kernel.owned_tables),
    Check(4, "policy in force", doctor_kernel.policy),
    Check(5, "other firewalls", doctor_kernel.firewalls),
    Check(6, "other agents", doctor_kernel.foreign_agents),
    Check(7, "iptables-legacy", doctor_kernel.legacy_tables),
    Check(8, "forwarding", doctor_kernel.forwarding),
    Check(9, "connection table", doctor_kernel.connections),
    Check(10, "MTU", doctor_kernel.mtu),
    Check(11, "disk space", doctor_kernel.room),
    Check(12, "settings", doctor_datastore.settings),
    Check(13, "secrets", doctor_datastore.permissions),
    Check(14, "datastore", doctor_datastore.reachable),
    Check(15, "datastore version", doctor_datastore.etcd_versions),
    Check(16, "datastore rights", doctor_datastore.rights),
    Check(17, "datastore ready", doctor_datastore.ready_for_use),
    Check(18, "stored objects", doctor_datastore.stored_objects),
    Check(19, "clocks", doctor_datastore.clocks),
    Check(20, "node", doctor_datastore.node),
    Check(21, "address detection", doctor_datastore.detection),
    Check(22, "address pools", doctor_datastore.pools),
    Check(23, "routes to hosts", doctor_datastore.peers),
    Check(24, "units", doctor_services.units),
    Check(25, "agent", doctor_services.agent),
    Check(26, "readiness", doctor_services.health),
    Check(27, "enforced", doctor_services.enforced),
    Check(28, "BIRD", doctor_services.bird),
    Check(29, "BGP sessions", doctor_services.sessions),
    Check(30, "left over", doctor_services.left_over),
    Check(31, "certificates", doctor_datastore.certificates),
)

_MARKS = {
    State.GOOD: ("ok", "green"),
    State.WARNING: ("warning", "yellow"),
    State.PROBLEM: ("PROBLEM", "red"),
    State.UNKNOWN: ("unknown", "cyan"),
}


class Result(NamedTuple):
    check: Check
    finding: Finding


def main(given: Given, screen: Screen) -> int:
    chosen = [_number(text) for text in given.texts("check")]
    results = []
    progress = screen.progress("examining", len(chosen) or len(CHECKS))
    for result in examine(host_of(given), chosen):
        results.append(result)
        progress.step()
    progress.wipe()
    problems = sum(result.finding.state is State.PROBLEM for result in results)
    if given.text("output") == "json":
        screen.print(json.dumps(as_json(results), indent=2, ensure_ascii=False))
    else:
        _show(results, problems, screen, given.has("quiet"))
    return EXIT_PROBLEMS if problems else 0


def host_of(given: Given) -> Host:
    return Host(
        os.environ,
        run_directory=run_directory(given),
        state_directory=state_directory(given),
        felix_config=Path(given.text("felix-config", str(FELIX_CFG))),
        config_file=access.config_file(given),
        environment_file=Path(given.text("environment-file", ENVIRONMENT_FILE)),
    )


def examine(host: Host, chosen: list[int] | None = None) -> Iterator[Result]:
    """In the order of the numbers.

    Args:
        chosen: numbers; all if empty.
    """
    for check in CHECKS:
        if chosen and check.number not in chosen:
            continue
        try:
            finding = check.examine(host)
        except (TortieError, OSError) as error:
            finding = unknown(f"it could not be told: {error}")
        yield Result(check, finding)


def as_json(results: list[Result]) -> dict[str, Any]:
    states = [result.finding.state for result in results]
    return {
        "problems": states.count(State.PROBLEM),
        "warnings": states.count(State.WARNING),
        "checks": [
            {
                "number": check.number,
                "name": check.name,
                "state": finding.state.value,
                "detail": finding.detail,
                "remedy": finding.remedy,
            }
            for check, finding in results
        ],
    }


def _number(text: str) -> int:
    """By its number or name."""
    for check in CHECKS:
        if text in (str(check.number), check.name):
            return check.number
    raise InvalidInput(f"--check: there is no check {text!r}; 1 to {CHECKS[-1].number}, or a name")


def _show(results: list[Result], problems: int, screen: Screen, quiet: bool) -> None:
    for check, finding in results:
        if quiet and finding.state is State.GOOD:
            continue
        word, colour = _MARKS[finding.state]
        mark = screen.paint(f"{word:<8}", colour)
        screen.print(f"{check.number:>2} {mark} {check.name}: {finding.detail}")
        if finding.remedy:
            screen.print(f"            {finding.remedy}")
    states = [result.finding.state for result in results]
    counts = [f"{problems} problem{'s' * (problems != 1)}"]
    for state, name in ((State.WARNING, "warnings"), (State.UNKNOWN, "unknown")):
        if count := states.count(state):
            counts.append(f"{count} {name.removesuffix('s') if count == 1 else name}")
    screen.print(", ".join(counts))
