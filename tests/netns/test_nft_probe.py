"""What is needed of nf_tables is tried where it disturbs nobody."""

import asyncio

import pytest

from tortie.ctl.node_checksystem import probes
from tortie.kernel.nft import probe
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.constants import Family
from tortie.kernel.nft.objects import Chain, TableName
from tortie.kernel.nft.transaction import Transaction

pytestmark = pytest.mark.usefixtures("netns")


def test_this_kernel_has_all_and_nothing_is_left() -> None:
    nft = Nft.open()
    before = asyncio.run(nft.generation())
    assert probe.missing() == {}
    assert asyncio.run(nft.generation()) == before, "nobody here was woken"
    nft.close()
    assert {one.is_good for one in probes()} == {True}


def test_what_is_refused_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probe.PROBES, "a chain without a table", _nowhere)
    (found,) = probe.missing().items()
    assert found[0] == "a chain without a table"
    assert "add chain inet nowhere" in found[1]
    assert [one.name for one in probes() if not one.is_good] == [found[0]]


def _nowhere(change: Transaction) -> None:
    change.add_chain(TableName(Family.INET, "nowhere"), Chain("x"))
