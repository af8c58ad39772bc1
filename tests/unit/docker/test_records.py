"""What is remembered of networks outlives everybody."""

from pathlib import Path

import pytest

from tortie.docker.records import Records
from tortie.lib.errors import Unavailable


def test_networks_keep_their_numbers_and_gateways(tmp_path: Path) -> None:
    records = Records(tmp_path)
    first, second = records.ensure("a"), records.ensure("b")
    assert first.gateway(4).address_text == "169.254.1.1"
    assert {first.gateway(4), second.gateway(4)} == {
        again.gateway(4) for again in (Records(tmp_path).ensure("a"), Records(tmp_path).ensure("b"))
    }
    assert first.gateway(6) != second.gateway(6)
    assert str(first.gateway(6)).startswith("fe80::a9fe:101")
    records.forget("a")
    assert records.ensure("c").number == first.number, "numbers of those that are gone are free"
    assert records.ensure("b") == second


def test_what_docker_says_of_a_network_is_news_once(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.ensure("a", internal=True)
    assert records.describe("a", name="net1", internal=True, driver="tortie")
    assert not records.describe("a", name="net1", internal=True, driver="tortie")
    assert Records(tmp_path).ensure("a").name == "net1"


def test_many_networks_have_gateways_of_their_own(tmp_path: Path) -> None:
    records = Records(tmp_path)
    found = [records.ensure(str(n)) for n in range(600)]
    assert len({network.gateway(4) for network in found}) == 600
    assert all(str(network.gateway(4)).startswith("169.254.") for network in found)


def test_borrowed_addresses(tmp_path: Path) -> None:
    Records(tmp_path).borrow("10.0.0.1")
    records = Records(tmp_path)
    assert records.give_back("10.0.0.1")
    assert not records.give_back("10.0.0.1")


def test_a_damaged_file_is_begun_anew_and_a_full_disk_is_said(tmp_path: Path) -> None:
    Records(tmp_path).ensure("a")
    (tmp_path / "docker.json").write_text("{")
    records = Records(tmp_path)
    assert records.networks == []
    (tmp_path / "docker.json").unlink()
    (tmp_path / "docker.json").mkdir()  # nobody can write that file now
    with pytest.raises(Unavailable):
        records.ensure("b")
    assert records.get("b") is None
