"""Hosts' blocks on a screen, forecasts, and repairs that are dry unless told otherwise."""

import asyncio
import io
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.ctl.shell import Shell

from tortie.ctl.screen import Screen
from tortie.datastore.client import Client
from tortie.datastore.embedded import EmbeddedClient
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import FOREIGN
from tortie.model.codec import encode
from tortie.model.ipam import Handle
from tortie.model.keys import HandleKey, ResourceKey

POOL = (
    "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: blue}\n"
    "spec: {cidr: 10.65.0.0/28, blockSize: 30}\n"
)


def with_client(act: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        client = EmbeddedClient(Path(os.environ["TORTIE_EMBEDDED_PATH"]))
        try:
            await act(client)
        finally:
            await client.close()

    asyncio.run(run())


@pytest.fixture
def full(tortie: Shell) -> Shell:
    """h1 has a full block and a third of another, h2 nothing; no host has a Node."""
    tortie("apply", "-f", tortie.write("pool.yaml", POOL))

    async def act(client: Client) -> None:
        for number in range(5):
            await Allocator(client, "h1").assign({4}, f"w{number}", {})
        key = HandleKey("orphan")
        await client.put(key.path, encode(key, Handle(block={"10.65.0.0/30": 1})))

    with_client(act)
    return tortie


def test_hosts_by_block(full: Shell) -> None:
    shown = full("ipam", "show", "--show-hosts").out.split()
    assert shown[:2] == ["h1", "5/8"]
    assert set(shown[2]) == {"░", "█"}
    assert "\x1b" not in shown[2]


def test_a_forecast_says_what_it_rests_on(full: Shell) -> None:
    shown = full("ipam", "show", "--forecast").out
    assert "blue" in shown
    assert "2/4" in shown
    assert "not known: less than an hour of history" in shown


def test_one_view_at_a_time(full: Shell) -> None:
    told = full("ipam", "show", "--show-hosts", "--forecast")
    assert told.code != 0
    assert "--show-borrowed, --show-configuration, --show-hosts, --forecast" in told.err


def test_repairs_are_dry_unless_told_otherwise(full: Shell) -> None:
    before = full("ipam", "show").out
    dry = full("ipam", "check", "--fix")
    assert dry.code == 0
    assert "Would delete handle orphan, which holds nothing." in dry.out
    assert dry.out.count("Would release 10.65.0.") == 5
    assert "6 repairs; nothing was changed." in dry.out
    assert full("ipam", "show").out == before
    done = full("ipam", "check", "--fix", "--dry-run=false", "--grace", "0")
    assert done.code == 0
    assert "6 repairs done, 0 left alone." in done.out
    assert "0 repairs; nothing was changed." in full("ipam", "check", "--fix").out
    assert "5 (" not in full("ipam", "show").out


def test_a_grace_is_a_number(full: Shell) -> None:
    told = full("ipam", "check", "--fix", "--grace", "soon")
    assert told.code != 0
    assert "--grace is 'soon'" in told.err
    alone = full("ipam", "check", "--dry-run=false")
    assert (alone.code, alone.out) == (1, "")
    assert "are for --fix" in alone.err


def test_a_terminal_that_knows_ascii_alone(full: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    assert not Screen(plain, plain).can_show("█")
    assert Screen(plain, plain).can_show("#")
    Screen(plain, plain).print("é")
    assert plain.buffer.getvalue() == b"\\xe9\n"
    monkeypatch.setattr(Screen, "can_show", lambda *_: False)
    assert set(full("ipam", "show", "--show-hosts").out.split()[2]) == {".", "#"}


def changed_block(change: Callable[[dict[str, Any]], None]) -> Callable[[Client], Awaitable[None]]:
    """Of those of h1, the one with four addresses in use, as somebody's hand leaves it."""

    async def act(client: Client) -> None:
        for entry in (await client.list("/calico/ipam/v2/assignment/")).entries:
            block = json.loads(entry.value)
            if None not in block["allocations"]:
                change(block)
                await client.put(entry.key, json.dumps(block).encode())

    return act


def test_a_damaged_block_is_told_and_its_handles_are_not_called_empty(full: Shell) -> None:
    def lose_one(block: dict[str, Any]) -> None:
        block["allocations"][0] = None

    with_client(changed_block(lose_one))
    told = full("ipam", "check").out
    assert "Found 1 blocks, affinities and handles that contradict one another." in told
    assert "some ordinals are neither free nor allocated" in told
    assert "Found 0 handles with no matching IPs." in told, "the orphan names this block, too"
    assert "Found 0 handles named in blocks that do not exist." in told


def test_a_block_that_cannot_be_read(full: Shell) -> None:
    def spoil(block: dict[str, Any]) -> None:
        block["allocations"] = "none"

    with_client(changed_block(spoil))
    told = full("ipam", "check").out
    assert "  unreadable: IPAM block 10.65.0." in told
    assert "Found 0 blocks, affinities and handles that contradict one another." in told
    assert "Found 0 handles with no matching IPs." in told, "the orphan names this block, too"
    fixed = full("ipam", "check", "--fix").out
    assert "handle orphan" not in fixed
    assert "correct handle" not in fixed


def test_nothing_has_leaked_while_an_endpoint_cannot_be_read(full: Shell) -> None:
    assert "Found 5 IPs that are allocated in IPAM but not" in full("ipam", "check").out

    async def act(client: Client) -> None:
        key = ResourceKey("WorkloadEndpoint", "h1-k8s-a-eth0", "default")
        await client.put(key.path, b"{")

    with_client(act)
    told = full("ipam", "check").out
    assert "Found 0 IPs that are allocated in IPAM but not" in told
    assert "Nothing is called leaked while an endpoint cannot be read." in told


def test_a_handle_that_holds_nothing_is_deleted(full: Shell) -> None:
    async def act(client: Client) -> None:
        await client.put(HandleKey("empty").path, encode(HandleKey("empty"), Handle()))

    with_client(act)
    assert "Would delete handle empty, which holds nothing." in full("ipam", "check", "--fix").out


def test_releasing_what_a_workload_uses_is_warned_of(full: Shell) -> None:
    held = re.findall(r'"ip": "(10[0-9.]+)"', report(full))
    endpoint = (
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n"
        "metadata: {name: h1-k8s-web-eth0, namespace: shop}\n"
        "spec: {node: h1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, "
        f"ipNetworks: [{held[0]}/32]}}\n"
    )
    full("apply", "-f", full.write("endpoint.yaml", endpoint))
    told = full("ipam", "release", f"--ip={held[0]}")
    assert (told.code, told.out) == (0, f"Successfully released IP address {held[0]}\n")
    assert f"{held[0]} is in use by Workload(shop/h1-k8s-web-eth0)" in told.err
    assert full("ipam", "release", f"--ip={held[1]}").err == ""


def test_addresses_of_other_network_plugins_have_not_leaked(full: Shell) -> None:
    """Nor does the report say so that `ipam release` takes. Without its host one has no user."""

    async def act(client: Client) -> None:
        for host in ("h1", "gone"):
            await Allocator(client, host).assign({4}, f"p.{host}", {"attachment": FOREIGN})

    with_client(act)
    assert "Found 7 IPs that are allocated in IPAM but not" in full("ipam", "check").out
    node = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: h1}\n"
    full("apply", "-f", full.write("node.yaml", node))
    told = full("ipam", "check").out
    assert "Found 1 IPs of other network plugins." in told
    assert "Found 6 IPs that are allocated in IPAM but not" in told
    found = json.loads(report(full))["allocations"]
    assert [one["handle"] for listed in found.values() for one in listed if one["inUse"]] == [
        "p.h1"
    ]


def report(tortie: Shell) -> str:
    path = tortie.write("report.json", "")
    tortie("ipam", "check", "-o", path)
    return Path(path).read_text()
