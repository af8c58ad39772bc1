"""A guest as far as its host can tell: the other end of a tap, and a client of DHCP on it.

Frames are made and read here, so that it can also say what no honest client would.
"""

import fcntl
import os
import select
import socket
import struct
import time
from typing import NamedTuple

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
BROADCAST = b"\xff" * 6
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = 1, 2, 3, 4, 5, 6, 7
SOLICIT, ADVERTISE, REQUEST6, RENEW6, REPLY = 1, 2, 3, 5, 7


class Lease(NamedTuple):
    kind: int
    address: str
    options: dict[int, bytes]

    def addresses(self, option: int) -> list[str]:
        raw = self.options.get(option, b"")
        return [socket.inet_ntoa(raw[at : at + 4]) for at in range(0, len(raw), 4)]

    def routes(self) -> list[tuple[str, str]]:
        """Option 121. Source: RFC 3442."""
        raw, found = self.options.get(121, b""), []
        while raw:
            length = raw[0]
            size = (length + 7) // 8
            destination = socket.inet_ntoa(raw[1 : 1 + size].ljust(4, b"\0"))
            gateway = socket.inet_ntoa(raw[1 + size : 5 + size])
            found.append((f"{destination}/{length}", gateway))
            raw = raw[5 + size :]
        return found


class Lease6(NamedTuple):
    kind: int
    addresses: list[str]
    options: dict[int, bytes]


class Advertisement(NamedTuple):
    managed: bool
    lifetime: int
    options: dict[int, bytes]


class TapGuest:
    """Holds the tap open, as a hypervisor does."""

    def __init__(self, interface: str, mac: str) -> None:
        self.interface = interface
        self.mac = bytes.fromhex(mac.replace(":", ""))
        self.duid = b"\0\3\0\1" + self.mac
        first = bytes((self.mac[0] ^ 2,))
        tail = first + self.mac[1:3] + b"\xff\xfe" + self.mac[3:]
        self.link_local = b"\xfe\x80" + bytes(6) + tail
        self.open()

    def open(self) -> None:
        """Take the tap up, again after `close`."""
        self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        name = self.interface.encode().ljust(16, b"\0") + struct.pack("H", _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(self._file, _TUNSETIFF, name.ljust(40, b"\0"))

    def close(self) -> None:
        os.close(self._file)

    def send(self, frame: bytes) -> None:
        os.write(self._file, frame)

    def frames(self, seconds: float) -> "list[bytes]":
        """What comes until that time has passed without a frame."""
        found = []
        while select.select([self._file], [], [], seconds)[0]:
            found.append(os.read(self._file, 65536))
        return found

    def _wait(self, wanted: "object", seconds: float) -> object | None:
        assert callable(wanted)
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            if not select.select([self._file], [], [], left)[0]:
                return None
            frame = os.read(self._file, 65536)
            self._answer_solicitation(frame)
            if (found := wanted(frame)) is not None:
                return found  # type: ignore[no-any-return]
        return None

    # IPv4.

    def dhcp(
        self,
        kind: int,
        *,
        mac: bytes | None = None,
        requested: str = "",
        server: str = "",
        address: str = "0.0.0.0",
        to: str = "255.255.255.255",
        to_mac: bytes = BROADCAST,
        more: bytes = b"",
        seconds: float = 2.0,
    ) -> Lease | None:
        """Ask, and return what comes back; None for silence.

        Args:
            mac: to be claimed inside of the message; None: our own.
            address: our own, once we have it.
        """
        chaddr = mac or self.mac
        xid = os.urandom(4)
        options = bytes((53, 1, kind)) + bytes((55, 8, 1, 3, 6, 12, 15, 26, 51, 121))
        for number, value in ((50, requested), (54, server)):
            if value:
                options += bytes((number, 4)) + socket.inet_aton(value)
        message = struct.pack(
            "!BBBB4sHH", 1, 1, 6, 0, xid, 0, 0x8000 if address == "0.0.0.0" else 0
        )
        message += socket.inet_aton(address) + bytes(12) + chaddr.ljust(16, b"\0") + bytes(192)
        message += b"\x63\x82\x53\x63" + options + more + b"\xff"
        udp = struct.pack("!HHHH", 68, 67, 8 + len(message), 0) + message
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
        header += socket.inet_aton(address) + socket.inet_aton(to)
        header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
        self.send(to_mac + self.mac + b"\x08\x00" + header + udp)
        found = self._wait(lambda frame: _read_reply(frame, xid), seconds)
        return found if isinstance(found, Lease) else None

    def lease(self) -> Lease | None:
        """The whole exchange, as a client does it."""
        offer = self.dhcp(DISCOVER)
        if offer is None or offer.kind != OFFER:
            return None
        [server] = offer.addresses(54)
        return self.dhcp(REQUEST, requested=offer.address, server=server)

    # IPv6.

    def solicit_router(self, seconds: float = 3.0) -> Advertisement | None:
        body = struct.pack("!BBHI", 133, 0, 0, 0) + b"\1\1" + self.mac
        self._send6(b"\x33\x33\0\0\0\2", bytes.fromhex("ff02" + "0" * 27 + "2"), 58, body)
        found = self._wait(_read_advertisement, seconds)
        return found if isinstance(found, Advertisement) else None

    def dhcp6(
        self, kind: int = SOLICIT, *, server: bytes = b"", address: str = "", seconds: float = 3.0
    ) -> Lease6 | None:
        transaction = os.urandom(3)
        association = b"\0\0\0\1" + bytes(8)
        if address:
            packed = socket.inet_pton(socket.AF_INET6, address)
            association += _option6(5, packed + bytes(8))
        body = bytes((kind,)) + transaction + _option6(1, self.duid)
        body += _option6(2, server) if server else b""
        body += (
            _option6(3, association)
            + _option6(6, struct.pack("!HH", 23, 24))
            + _option6(8, b"\0\0")
        )
        udp = struct.pack("!HHHH", 546, 547, 8 + len(body), 0) + body
        everybody = bytes.fromhex("ff02" + "0" * 22 + "010002")
        self._send6(b"\x33\x33\0\1\0\2", everybody, 17, udp)
        found = self._wait(lambda frame: _read_reply6(frame, transaction), seconds)
        return found if isinstance(found, Lease6) else None

    def lease6(self) -> Lease6 | None:
        offer = self.dhcp6()
        if offer is None or not offer.addresses:
            return None
        return self.dhcp6(REQUEST6, server=offer.options[2], address=offer.addresses[0])

    def _send6(self, to_mac: bytes, to: bytes, protocol: int, payload: bytes) -> None:
        source = self.link_local
        pseudo = source + to + struct.pack("!IHBB", len(payload), 0, 0, protocol)
        at = 2 if protocol == 58 else 6
        total = _checksum(pseudo + payload)
        payload = payload[:at] + struct.pack("!H", total) + payload[at + 2 :]
        header = struct.pack("!IHBB", 0x60000000, len(payload), protocol, 255) + source + to
        self.send(to_mac + self.mac + b"\x86\xdd" + header + payload)

    def _answer_solicitation(self, frame: bytes) -> None:
        """Neighbour solicitation for our link-local address: say that it is here."""
        if frame[12:14] != b"\x86\xdd" or frame[20] != 58 or frame[54] != 135:
            return
        if frame[62:78] != self.link_local:
            return
        body = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + self.link_local + b"\2\1" + self.mac
        self._send6(frame[6:12], frame[22:38], 58, body)


def _option6(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value


def _options6(raw: bytes) -> dict[int, bytes]:
    found = {}
    while len(raw) >= 4:
        number, length = struct.unpack("!HH", raw[:4])
        found[number] = raw[4 : 4 + length]
        raw = raw[4 + length :]
    return found


def _read_reply(frame: bytes, xid: bytes) -> Lease | None:
    if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[34:38] != b"\0\x43\0\x44":
        return None
    message = frame[42:]
    if message[4:8] != xid:
        return None
    options: dict[int, bytes] = {}
    rest = message[240:]
    while rest and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        options[rest[0]] = options.get(rest[0], b"") + rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return Lease(options[53][0], socket.inet_ntoa(message[16:20]), options)


def _read_advertisement(frame: bytes) -> Advertisement | None:
    if frame[12:14] != b"\x86\xdd" or frame[20] != 58 or frame[54] != 134:
        return None
    lifetime = struct.unpack("!H", frame[60:62])[0]
    options, rest = {}, frame[70:]
    while len(rest) >= 8 and rest[1]:
        options[rest[0]] = rest[2 : 8 * rest[1]]
        rest = rest[8 * rest[1] :]
    return Advertisement(bool(frame[59] & 0x80), lifetime, options)


def _read_reply6(frame: bytes, transaction: bytes) -> Lease6 | None:
    if frame[12:14] != b"\x86\xdd" or frame[20] != 17 or frame[63:66] != transaction:
        return None
    options = _options6(frame[66:])
    inside = _options6(options.get(3, b"")[12:])
    addresses = [socket.inet_ntop(socket.AF_INET6, inside[5][:16])] if 5 in inside else []
    return Lease6(frame[62], addresses, options)


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF
