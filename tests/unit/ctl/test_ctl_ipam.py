"""Hosts' blocks on a screen, forecasts, and repairs that are dry unless told otherwise."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

from tortie.datastore.client import Client
from tortie.datastore.embedded import EmbeddedClient
from tortie.ipam.allocator import Allocator
from tortie.model.codec import encode
from tortie.model.ipam import Handle
from tortie.model.keys import HandleKey

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
