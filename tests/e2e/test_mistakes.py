"""What users do wrong: one clear line on stderr, another exit status than 0, nothing done."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.live import LiveLab, Result, inside, need_root, running_lab

from tortie.lab import description

NOBODY = 65534


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with running_lab("e2e-m", hosts=1) as live:
        live.lab_ok("workload", "add", "web", "--host", "h1", "--listen", "tcp:80")
        yield live


MISTAKES = {
    "workload rm nobody": "has no workload nobody; it has default/web",
    "workload add x --host h9": "has no host h9; it has h1",
    "workload add web --host h1": "has a workload default/web already; remove it first",
    "workload add x --host h1 --label bad": "'bad' is no label: say key=value",
    "workload add x --host h1 --label a=b=c": "'a=b=c' is no label",
    "workload add x --host h1 --listen tcp:99999": "'tcp:99999' is no port: say tcp:80",
    "workload add x --host h1 --listen icmp": "listens on tcp:PORT or udp:PORT",
    "workload add X_ --host h1": "'X_' is no name for a workload",
    "workload move web --to h9": "has no host h9",
    "workload move web --to h1": "is on h1 already",
    "workload label web nothing": "'nothing' is no label",
    "exec h1 -- no-such-program": "there is no program no-such-program",
    "exec h9 -- true": "has no host or workload h9; hosts: h1; workloads: default/web",
    "exec h1": "no command given",
    "probe --port smtp": "'smtp' is no port",
    "probe --from nobody": "has no workload nobody",
    "up --hosts 1": "already there",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_with_a_lab(lab: LiveLab, line: str) -> None:
    before = lab.entries(), lab.lab
    words = line.split()
    count = 2 if words[0] == "workload" else 1
    result = lab.tortie("lab", *words[:count], "--name", lab.name, *words[count:])
    _is_one_line(result, MISTAKES[line])
    after = lab.entries()
    assert after.keys() == before[0].keys()
    assert lab.lab == before[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lab up --name e2e-no --hosts 0", "from 1 to 200 hosts, not 0"),
        ("lab up --name A_b", "'A_b' is no name for a lab"),
        ("lab up --name ../x", "'../x' is no name for a lab"),
        ("lab up --name e2e-no --hosts many", "invalid int value: 'many'"),
        ("lab up --name e2e-no --datastore zoo", "invalid choice: 'zoo'"),
        ("lab status --name e2e-no", "there is no lab e2e-no"),
        ("lab env --name e2e-no", "there is no lab e2e-no"),
        ("lab workload add x --name e2e-no --host h1", "there is no lab e2e-no"),
        ("lab", "required: VERB"),
    ],
)
def test_mistakes_without_a_lab(line: str, message: str) -> None:
    need_root()
    before = description.names()
    _is_one_line(inside(*line.split()), message)
    assert description.names() == before


BAD_FILES = {
    "kind: [": "2-bad.yaml:2:1: not YAML",
    "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicies\nmetadata: {name: a}\n": (
        "GlobalNetworkPolicy"
    ),
    "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec: {ordr: 1}\n": "order",
    "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: a.b}\n"
    "spec: {tier: a}\n": "there is no tier 'a'; create it first",
    "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: b}\n"
    "spec: {selector: 'role == '}\n": "selector",
    "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: b}\n"
    "spec: {ingress: [{action: Deny, source: {nets: [10.0.0.1/8]}}]}\n": "10.0.0.0/8",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_bad_file_applies_nothing(lab: LiveLab, tmp_path: Path, text: str) -> None:
    """Not even the good resource that comes first in it."""
    before = lab.entries()
    good = (
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n"
        "metadata: {name: good}\nspec: {nets: [10.0.0.0/8]}\n"
    )
    (tmp_path / "1-good.yaml").write_text(good)
    (tmp_path / "2-bad.yaml").write_text(text)
    result = lab.tortie("apply", "-f", str(tmp_path))
    _is_one_line(result, BAD_FILES[text])
    assert lab.entries().keys() == before.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": "http://127.0.0.1:1"},
            r"127\.0\.0\.1:1",
        ),
        (
            {"DATASTORE_TYPE": "embedded", "TORTIE_EMBEDDED_PATH": "/nonexistent/store.db"},
            "there is no datastore at /nonexistent/store.db: ",
        ),
        ({"DATASTORE_TYPE": "zoo"}, "must be etcdv3 or embedded"),
        (
            {"DATASTORE_TYPE": "embedded", "TORTIE_EMBEDDED_PATH": "TEXT"},
            "is no usable datastore",
        ),
    ],
)
def test_a_missing_datastore(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database")
    settings = {name: value.replace("TEXT", str(text)) for name, value in settings.items()}
    _is_one_line(inside("get", "nodes", **settings), message)


def test_a_lab_needs_root() -> None:
    need_root()
    result = _as_nobody("lab", "up", "--name", "e2e-no")
    _is_one_line(result, "needs root: sudo tortie lab up --name e2e-no")


def test_who_may_not_read_a_lab_hears_so(lab: LiveLab) -> None:
    _is_one_line(_as_nobody("lab", "env", "--name", lab.name), "labs belong to root")


def _as_nobody(*arguments: str) -> Result:
    """The command, which is loaded first: nobody may not even be allowed to read it."""
    program = (
        "import os, sys, tortie.lab.main; from tortie.ctl.main import main; "
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    return Result(process.returncode, process.stdout, process.stderr)


def _is_one_line(result: Result, message: str) -> None:
    assert result.code not in (0, None), result
    assert re.search(message.replace("[", r"\["), result.err), result.err
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err
    assert result.out == ""
