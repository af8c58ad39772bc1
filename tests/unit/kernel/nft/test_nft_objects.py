"""Keys, ranges and user data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tortie.kernel.nft import keys, userdata
from tortie.kernel.nft.objects import (
    IFNAME,
    INET_PROTO,
    INET_SERVICE,
    IPV4_ADDR,
    MARK,
    Element,
    Interval,
    Set,
    interval_elements,
    intervals,
    network_elements,
)
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network


def test_keys_are_laid_out_as_registers_are_loaded() -> None:
    assert keys.ifname("cali1") == b"cali1" + bytes(11)
    assert keys.port(443) == b"\x01\xbb"
    assert keys.concatenate(keys.protocol(6), keys.port(80)) == b"\x06\0\0\0\0\x50\0\0"
    assert keys.ethernet("ee:00:01:02:03:ff").hex() == "ee00010203ff"


@pytest.mark.parametrize("name", ["", "x" * 16, "é" * 8])
def test_an_interface_name_that_the_kernel_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        keys.ifname(name)


@pytest.mark.parametrize("text", ["", "ee:ee", "gg:00:00:00:00:00", "100:0:0:0:0:0"])
def test_what_is_no_mac_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        keys.ethernet(text)


def test_a_concatenated_key_is_as_long_as_its_padded_parts() -> None:
    of = Set("s", (IFNAME, IPV4_ADDR, INET_PROTO, INET_SERVICE), (MARK,))
    assert of.key_length == 16 + 4 + 4 + 4
    assert of.data_length == 4
    assert Set("s", (INET_SERVICE,)).key_length == 2


def test_a_range_up_to_the_last_key_has_no_end() -> None:
    assert interval_elements(b"\0\1", b"\0\3") == (
        Element(b"\0\1"),
        Element(b"\0\4", interval_end=True),
    )
    assert interval_elements(b"\xff\0", b"\xff\xff", b"d") == (Element(b"\xff\0", b"d"),)
    assert network_elements(parse_network("::/0")) == (Element(bytes(16)),)


@given(st.sets(st.integers(0, 255), max_size=30), st.randoms(use_true_random=False))
def test_ranges_survive_being_cut_into_boundaries_in_any_order(
    cuts: set[int], random: object
) -> None:
    edges = sorted(cuts)
    ranges = [
        Interval(bytes((low,)), bytes((high - 1,)))
        for low, high in zip(edges[::2], edges[1::2], strict=False)
    ]
    boundaries = [one for low, high, _ in ranges for one in interval_elements(low, high)]
    random.shuffle(boundaries)  # type: ignore[attr-defined]
    assert list(intervals(boundaries)) == ranges


def test_an_end_before_the_first_range_is_skipped() -> None:
    read = intervals([Element(b"\0", interval_end=True), Element(b"\5")])
    assert list(read) == [Interval(b"\5", b"\xff")]


@given(st.text(max_size=300), st.binary(max_size=120))
def test_a_comment_and_a_tag_share_the_user_data(comment: str, tag: bytes) -> None:
    packed = userdata.pack_rule(comment=comment, tag=tag)
    assert len(packed) <= 256
    assert userdata.rule_tag(packed) == tag
    read = userdata.rule_comment(packed)
    assert len(read.encode()) <= 127
    assert '"' not in read
    assert read.isprintable()


def test_cut_user_data_is_no_error() -> None:
    assert userdata.rule_comment(b"\0\x09abc") == ""
    assert userdata.rule_tag(b"") == b""
