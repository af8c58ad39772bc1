"""Stored settings change: the agent starts itself anew, and no packet is lost of it."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.live import LiveLab
from tests.e2e.traffic import connection

from tortie.kernel import netns
from tortie.lab.probe import Port, Probe, run

RESTARTED = "settings changed; starting anew"


def test_settings_change_without_a_break(live: LiveLab, tmp_path: Path) -> None:
    expected = live.check("before")
    pids = [live.agent_pid(host.name) for host in live.lab.hosts]
    assert not _reaches_host(live), "by default workloads do not reach their host"
    with connection(live, "w1", "w5") as traffic:
        _change(live, tmp_path, defaultEndpointToHostAction="Accept", logSeverityScreen="Debug")
        live.eventually(lambda: _reaches_host(live), "the host answers its workload")
        live.settle()
        assert live.check("with other settings") == expected
        assert " DEBUG " in live.agent_log("h1").rpartition(RESTARTED)[2]
        _change(live, tmp_path, defaultEndpointToHostAction="Drop", logSeverityScreen="Info")
        live.eventually(lambda: not _reaches_host(live), "the host is closed again")
        live.settle()
        seen = traffic.stop()
    assert seen.problem == ""
    assert live.check("and back") == expected
    assert [live.agent_pid(host.name) for host in live.lab.hosts] == pids, "in place"
    for host in live.lab.hosts:
        assert RESTARTED in live.agent_log(host.name)


def _change(live: LiveLab, folder: Path, **settings: Any) -> None:
    resource = json.loads(live.ok("get", "felixconfiguration", "default", "-o", "json"))
    resource["spec"].update(settings)
    file = folder / "settings.json"
    file.write_text(json.dumps(resource))
    live.ok("apply", "-f", str(file))


def _reaches_host(live: LiveLab) -> bool:
    lab = live.lab
    path = netns.named_path(lab.workload_namespace(lab.workload("w1")))
    return run([Probe(path, lab.host("h1").ipv4, Port("icmp"))])[0]
