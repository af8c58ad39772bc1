"""Moving datastores, releasing what leaked, archives without secrets, completion, the editor."""

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from tests.cli.conftest import make_embedded
from tests.unit.ctl.shell import Shell

from tortie.ctl.complete import candidates
from tortie.ctl.redaction import HIDDEN, redacted
from tortie.datastore.client import Client
from tortie.datastore.embedded import EmbeddedClient
from tortie.ipam.allocator import Allocator

T = TypeVar("T")

HEAD = "apiVersion: projectcalico.org/v3\n"
POOL = HEAD + "kind: IPPool\nmetadata: {name: blue}\nspec: {cidr: 10.65.0.0/16}\n"
NODE = HEAD + "kind: Node\nmetadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n"
POLICY = (
    HEAD + "kind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n"
    "spec: {selector: all(), ingress: [{action: Allow}]}\n"
)


def with_client(act: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        client = EmbeddedClient(Path(os.environ["TORTIE_EMBEDDED_PATH"]))
        try:
            return await act(client)
        finally:
            await client.close()

    return asyncio.run(run())


def assign(handle: str) -> str:
    async def act(client: Client) -> str:
        (address,) = await Allocator(client, "n1").assign([4], handle, {"pod": "p"})
        return address.address_text

    return with_client(act)


def test_export_and_import(tortie: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tortie("apply", "-f", tortie.write("a.yaml", "---\n".join([POOL, NODE, POLICY])))
    address = assign("net.c1")
    assert "not locked" in tortie("datastore", "migrate", "export").err
    tortie("datastore", "migrate", "lock")
    exported = tortie("datastore", "migrate", "export")
    assert exported.out.count("\n===\n") == 2
    path = tortie.write("export.txt", exported.out)
    assert "another cluster's" not in tortie("datastore", "migrate", "import", "-f", path).err

    other = tmp_path / "other" / "datastore.db"
    make_embedded(other)
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", str(other))
    imported = tortie("datastore", "migrate", "import", "-f", path)
    assert imported.err == ""
    assert imported.out.startswith("Successfully imported ")
    assert tortie("get", "np", "-A").out.endswith("shop        web    default\n")
    assert f"IP {address} is in use" in tortie("ipam", "show", f"--ip={address}").out
    assert "false" in tortie("get", "clusterinfo").out
    again = tortie("datastore", "migrate", "export").out
    assert again.partition("===")[0] == exported.out.partition("===")[0]
    assert again.rpartition("===")[2] == exported.out.rpartition("===")[2]

    third = tmp_path / "third" / "datastore.db"
    make_embedded(third)
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", str(third))
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    refused = tortie("datastore", "migrate", "import", "-f", path)
    assert refused.code == 1
    assert "another cluster's" in refused.err


def test_import_of_something_else(tortie: Shell) -> None:
    outcome = tortie("datastore", "migrate", "import", "-f", tortie.write("x.yaml", NODE))
    assert outcome.code == 1
    assert "has 1 parts, not 3" in outcome.err


def test_policies_of_before_3_32(tortie: Shell) -> None:
    base = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies"
    old = {"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3",
           "metadata": {"name": "default.old", "uid": "u"},
           "spec": {"selector": "all()", "colour": "red"}}  # fmt: skip

    async def put(client: Client) -> None:
        await client.put(f"{base}/default.old", json.dumps(old).encode())

    with_client(put)
    assert tortie("get", "gnp").out == "NAME   TIER\nold    default\n"
    done = tortie("datastore", "migrate-policy-names")
    assert done.out == "Policy name migration complete, migrated 1 policies.\n"

    async def read(client: Client) -> dict[str, bytes]:
        return {e.key: e.value for e in (await client.list(base)).entries}

    stored = with_client(read)
    assert list(stored) == [f"{base}/old"]
    moved = json.loads(stored[f"{base}/old"])
    assert moved["metadata"]["uid"] == "u"
    assert moved["spec"]["colour"] == "red"
    assert "migrated 0 policies" in tortie("datastore", "migrate-policy-names").out


def test_release_from_reports(tortie: Shell) -> None:
    tortie("apply", "-f", tortie.write("a.yaml", POOL + "---\n" + NODE))
    kept, leaked = assign("net.c1"), assign("net.c2")
    first = str(tortie.directory / "1.json")
    second = str(tortie.directory / "2.json")
    tortie("ipam", "check", "-o", first)
    # Between the reports the first address found another holder.
    tortie("ipam", "release", f"--ip={kept}")

    async def take(client: Client) -> None:
        from tortie.lib.ip import parse_address

        await Allocator(client, "n1").assign([4], "net.c3", {}, requested=[parse_address(kept)])

    with_client(take)
    assert "not locked" in tortie("ipam", "release", "--from-report", first).err
    tortie("datastore", "migrate", "lock")
    assert "all stale" in tortie("ipam", "release", "--from-report", first).err
    tortie("ipam", "check", "-o", second)
    done = tortie("ipam", "release", f"--from-report={first}", f"--from-report={second}")
    assert done.code == 0, done.err
    assert "Released 1 IPs successfully\n" in done.out
    assert tortie("ipam", "show", f"--ip={leaked}").out == f"{leaked} is not assigned\n"
    assert "is in use" in tortie("ipam", "show", f"--ip={kept}").out
    other = json.loads(Path(second).read_text()) | {"clusterGUID": "other"}
    foreign = tortie.write("3.json", json.dumps(other))
    refused = tortie("ipam", "release", f"--from-report={foreign}", "--force")
    assert "mismatched cluster GUID" in refused.err


def test_ipam_settings_that_contradict(tortie: Shell) -> None:
    assert "needs --strictaffinity" in tortie("ipam", "configure", "--max-blocks-per-host=3").err

    async def put(client: Client) -> None:
        raw = b'{"strict_affinity":true,"auto_allocate_blocks":false,"colour":"red"}'
        await client.put("/calico/ipam/v2/config", raw)

    async def read(client: Client) -> bytes:
        entry = await client.get("/calico/ipam/v2/config")
        assert entry is not None
        return entry.value

    with_client(put)
    refused = tortie("ipam", "configure", "--strictaffinity=false")
    assert "blocks must be allocated automatically" in refused.err
    assert tortie("ipam", "configure", "--ip-cooldown-seconds=60").code == 0
    assert json.loads(with_client(read)) == {
        "strict_affinity": True, "auto_allocate_blocks": False, "colour": "red",
        "ipCooldownSeconds": 60,
    }  # fmt: skip


CANARY = "canary-77c1"


def test_diags_hold_no_secret(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    directory = tortie.directory / "diags"
    directory.mkdir(parents=True)
    monkeypatch.chdir(directory)
    monkeypatch.setenv("ETCD_PASSWORD", CANARY)
    assert tortie("cluster", "diags").out.startswith("Diags saved to tortie-cluster-diags-")
    (path,) = directory.iterdir()
    with tarfile.open(path) as archive:
        parts = {m.name.partition("/")[2]: archive.extractfile(m) for m in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in parts.items() if file}
    assert "n1" in texts["resources/node.yaml"]
    assert CANARY not in "".join(texts.values())
    secret = {"spec": {"password": CANARY, "passwordRef": {"name": "s"}, "l": [{"token": CANARY}]}}
    key = f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n-----END EC PRIVATE KEY-----"
    assert CANARY not in json.dumps(redacted({**secret, "text": key}))
    assert redacted(secret) == {
        "spec": {"password": HIDDEN, "passwordRef": {"name": "s"}, "l": [{"token": HIDDEN}]}
    }


def test_diags_of_a_datastore_that_is_away(
    tortie: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", "/nonexistent/x.db")
    outcome = tortie("cluster", "diags")
    assert outcome.code == 0
    assert "could not be read" in outcome.err


@pytest.mark.parametrize(
    ("before", "word", "some"),
    [
        ([], "ap", ["apply"]),
        (["ipam"], "s", ["show", "split"]),
        (["datastore", "migrate"], "", ["export", "import", "lock", "unlock"]),
        (["get"], "bgpp", ["bgppeers"]),
        (["get", "nodes"], "", ["n1", "n2"]),
        (["get", "nodes", "n1"], "", ["n2"]),
        (["get"], "node/n", ["node/n1", "node/n2"]),
        (["get", "np", "-n", "shop"], "", ["web"]),
        (["get", "np"], "", []),
        (["get", "nodes", "-o"], "y", ["yaml", "yml"]),
        (["get", "nodes"], "--output=js", ["--output=json", "--output=jsonpath=",
                                          "--output=jsonpath-file="]),
        (["get", "nodes"], "--show", ["--show-labels"]),
        (["apply", "-f"], "x", [":files"]),
        (["patch", "node", "n1", "-t"], "", ["strategic", "json", "merge"]),
        (["completion"], "z", ["zsh"]),
        (["nonsense"], "", []),
        (["lab"], "w", ["workload"]),
        (["lab", "workload"], "", ["add", "label", "list", "move", "rm"]),
        (["lab", "up"], "--data", ["--datastore"]),
        (["lab", "up", "--datastore"], "", ["embedded", "etcd"]),
        (["policy", "impact", "-f"], "", [":files"]),
        (["node"], "a", ["autodetect"]),
    ],
)  # fmt: skip
def test_candidates(tortie: Shell, before: list[str], word: str, some: list[str]) -> None:
    nodes = NODE + "---\n" + NODE.replace("n1", "n2")
    tortie("apply", "-f", tortie.write("a.yaml", nodes + "---\n" + POLICY))
    assert candidates(before, word) == some


@pytest.fixture
def shell_path(tortie: Shell, tmp_path: Path) -> str:
    """A PATH on which `tortie` is found; there is a node n1."""
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    program = tmp_path / "bin" / "tortie"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tortie "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def test_bash_completes(tortie: Shell, shell_path: str) -> None:
    script = tortie.write("completion.bash", tortie("completion", "bash").out)
    ask = (
        f'source {script}; COMP_WORDS=(tortie get nodes ""); COMP_CWORD=3; _tortie; '
        'echo "${COMPREPLY[@]}"; '
        'COMP_WORDS=(tortie ip); COMP_CWORD=1; _tortie; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", ask], capture_output=True, text=True, timeout=30,
        env={**os.environ, "PATH": shell_path}, check=True,
    )  # fmt: skip
    assert done.stdout == "n1\nipam\n"


def test_fish_completes(tortie: Shell, shell_path: str) -> None:
    script = tortie.write("tortie.fish", tortie("completion", "fish").out)
    (tortie.directory / "some-file").touch()

    def candidates_of(line: str) -> list[str]:
        done = subprocess.run(
            ["fish", "--no-config", "-c", f'source {script}; complete -C "{line}"'],
            capture_output=True, text=True, timeout=30, cwd=tortie.directory, check=True,
            env={**os.environ, "PATH": shell_path, "HOME": str(tortie.directory)},
        )  # fmt: skip
        return [found.partition("\t")[0] for found in done.stdout.splitlines()]

    assert candidates_of("tortie get nodes ") == ["n1"]
    assert candidates_of("tortie ip") == ["ipam"]
    assert "some-file" in candidates_of("tortie apply -f some")


def test_zsh_completes(tortie: Shell, shell_path: str) -> None:
    """At a real prompt: a tab, and the line goes on."""
    script = tortie.write("_tortie", tortie("completion", "zsh").out)
    home = str(tortie.directory)
    environment = {**os.environ, "PATH": shell_path, "HOME": home, "TERM": "dumb"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment)
    try:
        start = f"PS1='> '; cd {home}; autoload -U compinit; compinit -D -u; source {script}"
        os.write(terminal, f"{start}; echo rea''dy\n".encode())
        assert "ready" in read_until(terminal, "ready")
        for typed, completed in (
            ("tortie ip\t", "ipam"),
            ("tortie get nodes \t", "nodes n1"),
            ("tortie apply -f _tor\t", "-f _tortie"),
        ):
            os.write(terminal, typed.encode())
            assert completed in read_until(terminal, completed)
            os.write(terminal, b"\x15")  # forget the line
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, text: str) -> str:
    """What a shell printed, once `text` is in it, or after a while."""
    shown = ""
    give_up = time.monotonic() + 20
    while text not in shown and time.monotonic() < give_up:
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace").replace("\r", "")
    return shown


def test_editing(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "true")
    assert tortie("edit", "node", "n1").out == "Edit cancelled, no changes made.\n"
    monkeypatch.setenv("EDITOR", "sed -i s/192.0.2.1/192.0.2.9/")
    assert tortie("edit", "node/n1").out == "Successfully replaced 1 'Node' resource(s)\n"
    assert "192.0.2.9/24" in tortie("get", "nodes", "-o", "wide").out
    monkeypatch.setenv("EDITOR", "sed -i s/ipv4Address/ipv4Adress/")
    wrong = tortie("edit", "node", "n1")
    assert wrong.code == 1
    assert "did you mean 'ipv4Address'?" in wrong.err
    kept = Path(wrong.err.rstrip("\n").rpartition(" ")[2])
    assert "ipv4Adress" in kept.read_text()
    kept.unlink()
    monkeypatch.setenv("EDITOR", "false")
    assert "failed with 1; nothing changed" in tortie("edit", "node", "n1").err
    monkeypatch.setenv("EDITOR", "/nonexistent/editor")
    assert "cannot start the editor" in tortie("edit", "node", "n1").err
    assert "resource does not exist: Node(n7)" in tortie("edit", "node", "n7").err


def test_manual_pages_are_sound(tortie: Shell) -> None:
    pages = [tortie("man").out, tortie("man", "get").out, tortie("man", "ipam", "show").out]
    for page in pages:
        assert page.startswith(".TH TORTIE")
        assert ".SH NAME" in page
        assert not [line for line in page.splitlines() if line.startswith(("'", "..."))]
    assert "there is no command 'x'" in tortie("man", "x").err
