"""What `tortie get` costs, watching, damaged objects, colour and progress."""

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

from tortie.ctl import plain
from tortie.ctl.kinds import plural
from tortie.ctl.screen import Screen
from tortie.ctl.selection import Selection
from tortie.datastore.embedded import EmbeddedClient

HEAD = "apiVersion: projectcalico.org/v3\n"
NODE = HEAD + "kind: Node\nmetadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n"

PROGRAM = "from tortie.ctl.main import entry; entry()"


def _start(words: Sequence[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_a_table_imports_nothing_heavy(tortie: Shell) -> None:
    """The limit is a tenth of a second of CPU; asyncio alone costs most of that."""
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    code = (
        "import sys; from tortie.ctl.main import main\n"
        "code = main(['get', 'nodes', '-o', 'wide'])\n"
        "print(' '.join(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert "192.0.2.1/24" in done.stdout
    heavy = {"asyncio", "msgspec", "yaml", "argparse", "pathlib", "typing", "tortie.model.keys"}
    assert not heavy & set(done.stderr.split())


def test_the_quick_way_and_the_client_read_the_same(tortie: Shell) -> None:
    tier = HEAD + "kind: Tier\nmetadata: {name: sec}\nspec: {order: 5}\n"
    policy = HEAD + "kind: GlobalNetworkPolicy\nmetadata: {name: web}\nspec: {tier: sec}\n"
    tortie("apply", "-f", tortie.write("a.yaml", "---\n".join([NODE, tier, policy])))
    tortie("delete", "node", "n1")
    for kind in ("Node", "GlobalNetworkPolicy", "Tier"):
        prefixes = [f"{plain.RESOURCES}{plural(kind)}/"]
        quick = plain._from_file(os.environ["TORTIE_EMBEDDED_PATH"], prefixes)
        assert quick == plain._through_client(None, prefixes)
    chosen = [Selection("GlobalNetworkPolicy", ("web",))]
    (found,) = plain.read(None, chosen, "", everywhere=False).items[0]
    assert found["metadata"]["name"] == "web"
    assert "annotations" not in found["metadata"]


@pytest.mark.parametrize(
    ("key", "annotations", "tier", "name"),
    [
        ("default.web", None, "default", "web"),
        ("default.web", None, None, "web"),
        ("default.web", '{"name":"web"}', "default", "web"),
        ("default.web", '{"name":"default.web"}', "default", "default.web"),
        ("web", '{"name":"other"}', "default", "web"),
        ("web", "no json", "default", "web"),
        ("sec.web", None, "sec", "sec.web"),
    ],
)
def test_names_of_policies(key: str, annotations: str | None, tier: str | None, name: str) -> None:
    from tortie.model import codec
    from tortie.model.keys import ResourceKey

    metadata: dict[str, object] = {"name": key}
    document = {"metadata": metadata, "spec": {"tier": tier} if tier else {}}
    if annotations is not None:
        document["metadata"] = {
            **metadata, "annotations": {"projectcalico.org/metadata": annotations},
        }  # fmt: skip
    raw = json.dumps(document).encode()
    item = plain.as_read("GlobalNetworkPolicy", f"{plain.RESOURCES}x/{key}", raw, 7)
    assert item is not None
    assert item["metadata"] == {"name": name, "resourceVersion": "7"}
    decoded = codec.decode(ResourceKey("GlobalNetworkPolicy", key), raw)
    assert decoded.metadata.name == name


def test_watching(tortie: Shell) -> None:
    path = tortie.write("n.yaml", NODE)
    tortie("apply", "-f", path)
    watcher = _start(["get", "nodes", "-w", "-o", "wide"])
    assert watcher.stdout is not None
    try:
        assert watcher.stdout.readline() == "NAME   ASN   IPV4   IPV6\n"
        assert watcher.stdout.readline().split() == ["n1", "(64512)", "192.0.2.1/24"]
        tortie("label", "node", "n1", "a=b")
        assert watcher.stdout.readline().startswith("n1")
        tortie("delete", "node", "n1")
        assert watcher.stdout.readline().endswith("(deleted)\n")
    finally:
        watcher.terminate()
        watcher.communicate(timeout=10)


def test_damaged_objects_are_told(tortie: Shell) -> None:
    async def damage() -> None:
        client = EmbeddedClient(Path(os.environ["TORTIE_EMBEDDED_PATH"]))
        await client.put(f"{plain.RESOURCES}nodes/bad", b"no json \x1b[31m")
        await client.put(f"{plain.RESOURCES}nodes/odd", b'{"metadata":{"name":"o\\u001bdd"}}')
        await client.close()

    asyncio.run(damage())
    outcome = tortie("get", "nodes")
    assert outcome.out == "NAME\no?dd\n"
    assert outcome.err == (
        "left out, because it is not valid: "
        "/calico/resources/v3/projectcalico.org/nodes/bad: is not a JSON object\n"
    )
    shown = tortie("get", "nodes", "-o", "yaml").err
    assert "is named" in shown
    assert "\x1b" not in shown
    assert "\x1b" not in tortie("get", "node", "x\x1b[31m").err


def test_what_is_there_twice_is_told(tortie: Shell) -> None:
    """Another writer stored it; readers take the last one, as Go does."""

    async def damage() -> None:
        client = EmbeddedClient(Path(os.environ["TORTIE_EMBEDDED_PATH"]))
        value = b'{"metadata":{"name":"t"},"spec":{"order":1,"order":2}}'
        await client.put(f"{plain.RESOURCES}tiers/t", value)
        await client.close()

    asyncio.run(damage())
    outcome = tortie("get", "tiers")
    assert outcome.out == "NAME   ORDER\nt      2\n"
    assert outcome.err == (
        "warning: /calico/resources/v3/projectcalico.org/tiers/t: 'order' is there twice; "
        "the last one counts\n"
    )
    assert "order: 2\n" in tortie("get", "tiers", "-o", "yaml").out


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_and_progress_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Screen(io.StringIO(), io.StringIO()).paint("x", "red") == "x"
    terminal = Screen(_Terminal(), _Terminal())
    assert terminal.paint("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setattr("tortie.ctl.screen.PROGRESS_AFTER_SECONDS", 0)
    monkeypatch.setattr("tortie.ctl.screen._REDRAW_SECONDS", 0)
    progress = terminal.progress("writing", 2)
    progress.step()
    progress.wipe()
    assert isinstance(terminal.err, _Terminal)
    assert "writing 1/2" in terminal.err.getvalue()
    assert terminal.err.getvalue().endswith("\r\x1b[K")
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint("x", "red") == "x"


def test_diff_is_coloured_on_a_terminal(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    path = tortie.write("n.yaml", NODE)
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "diff", "-f", path], stdout=child, timeout=30, check=False
    )
    os.close(child)
    time.sleep(0.05)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert done.returncode == 1
    assert "\x1b[32m+kind: Node\x1b[0m" in shown
