"""Messages and attributes as bytes; what an acknowledgement says."""

import errno
import struct

from hypothesis import given
from hypothesis import strategies as st

from tortie.kernel import netlink

attributes = st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=8)


@given(attributes)
def test_attributes_are_read_as_they_were_packed(wanted: list[tuple[int, bytes]]) -> None:
    packed = b"".join(netlink.attribute(kind, value) for kind, value in wanted)
    assert len(packed) % 4 == 0
    read = [(kind, bytes(value)) for kind, value in netlink.attributes(memoryview(packed))]
    assert read == wanted


@given(attributes, st.integers(0, 60))
def test_cut_attributes_end_the_walk_without_an_error(
    wanted: list[tuple[int, bytes]], cut: int
) -> None:
    packed = b"".join(netlink.attribute(kind, value) for kind, value in wanted)[:cut]
    read = [(kind, bytes(value)) for kind, value in netlink.attributes(memoryview(packed))]
    assert read == wanted[: len(read)]


def test_numbers_stand_in_the_order_that_each_family_wants() -> None:
    assert netlink.attribute_u32(1, 5)[4:] == struct.pack("=I", 5)
    assert netlink.attribute_be32(1, 5)[4:] == b"\0\0\0\5"
    assert netlink.u32(memoryview(struct.pack("=I", 7))) == 7
    assert netlink.u16(memoryview(struct.pack("=H", 7))) == 7
    assert netlink.be(memoryview(b"\1\0")) == 256
    assert netlink.text(memoryview(b"lo\0")) == "lo"
    assert netlink.attribute_string(3, "abc")[4:] == b"abc\0"


def test_a_nested_attribute_carries_the_flag_and_is_read_without_it() -> None:
    packed = netlink.nested(2, netlink.attribute_be32(1, 9))
    assert struct.unpack_from("=HH", packed) == (12, 0x8002)
    ((kind, value),) = netlink.attributes(memoryview(packed))
    assert kind == 2
    assert netlink.be(netlink.attribute_map(value)[1]) == 9


def test_several_messages_in_one_datagram() -> None:
    data = netlink.message(16, 1, 7, b"abcd") + netlink.message(17, 2, 8, b"")
    read = [
        (one.kind, one.flags, one.sequence, bytes(one.payload)) for one in netlink.messages(data)
    ]
    assert read == [(16, 1, 7, b"abcd"), (17, 2, 8, b"")]
    assert list(netlink.messages(data[:-1]))[1:] == []


def answer(flags: int, payload: bytes) -> netlink.Acknowledgement:
    (one,) = netlink.messages(netlink.message(netlink.NLMSG_ERROR, flags, 3, payload))
    return netlink.acknowledgement(one)


REQUEST = netlink.message(16, 1, 3, b"12345678")
REASON = (
    netlink.attribute_string(1, "Missing device")
    + netlink.attribute_u32(2, 20)
    + netlink.attribute_u32(5, 4)
)


def test_a_plain_acknowledgement_is_success() -> None:
    said = answer(netlink.NLM_F_CAPPED, struct.pack("=i", 0) + REQUEST[:16])
    assert said == netlink.Acknowledgement(3, 0)


def test_the_reason_is_found_behind_a_capped_and_a_whole_request() -> None:
    wanted = netlink.Acknowledgement(3, errno.EINVAL, "Missing device", 20, 4)
    refused = struct.pack("=i", -errno.EINVAL)
    both = netlink.NLM_F_ACK_TLVS | netlink.NLM_F_CAPPED
    assert answer(both, refused + REQUEST[:16] + REASON) == wanted
    assert answer(netlink.NLM_F_ACK_TLVS, refused + REQUEST + REASON) == wanted
    assert wanted.detail == "Missing device, at byte 20 of the message, attribute 4 is missing"


def test_without_a_reason_the_errno_speaks() -> None:
    said = answer(netlink.NLM_F_CAPPED, struct.pack("=i", -errno.ENOENT) + REQUEST[:16])
    assert said.code == errno.ENOENT
    assert said.detail == "No such file or directory"
