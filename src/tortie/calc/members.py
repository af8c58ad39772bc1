"""Who brings what into sets, for everything in the cluster, in as few bytes as that takes.

What most endpoints of one host have in common (the host, and which ports they serve) exists once
and has a number; an endpoint is that number and its packed addresses, one string of bytes.
"""

from collections.abc import Iterator

from tortie.calc.validation import Member, ServedPort
from tortie.desired.endpoint import EndpointId
from tortie.model.keys import ResourceKey

Item = EndpointId | ResourceKey
"""A workload endpoint, or a host endpoint, network set or slice of a service."""

_NUMBER_BYTES = 4

_Common = tuple[str, tuple[ServedPort, ...], bytes]
"""Host, ports and floating addresses, which few have."""


class Members:
    """Item → `Member`; those that are given out are made anew each time."""

    def __init__(self) -> None:
        self._packed: dict[Item, bytes] = {}
        self._numbers: dict[_Common, int] = {}
        self._common: list[_Common] = []
        """By number."""
        self._uses: list[int] = []
        """By number: how many items. Those without are `_free`."""
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._packed)

    def get(self, item: Item) -> Member | None:
        packed = self._packed.get(item)
        return None if packed is None else self._unpacked(packed)

    def __getitem__(self, item: Item) -> Member:
        return self._unpacked(self._packed[item])

    def __setitem__(self, item: Item, member: Member) -> None:
        before = self._packed.get(item)
        number = self._number((member.host, member.ports, member.floating))
        self._uses[number] += 1
        self._packed[item] = number.to_bytes(_NUMBER_BYTES, "big") + member.packed
        if before is not None:
            self._release(before)

    def discard(self, item: Item) -> None:
        """One that is not there is fine."""
        before = self._packed.pop(item, None)
        if before is not None:
            self._release(before)

    def _unpacked(self, packed: bytes) -> Member:
        host, ports, floating = self._common[int.from_bytes(packed[:_NUMBER_BYTES], "big")]
        return Member(packed[_NUMBER_BYTES:], ports, host, floating)

    def _number(self, common: _Common) -> int:
        number = self._numbers.get(common)
        if number is not None:
            return number
        if self._free:
            number = self._free.pop()
            self._common[number] = common
        else:
            number = len(self._common)
            self._common.append(common)
            self._uses.append(0)
        self._numbers[common] = number
        return number

    def _release(self, packed: bytes) -> None:
        number = int.from_bytes(packed[:_NUMBER_BYTES], "big")
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._numbers[self._common[number]]
            self._common[number] = "", (), b""
            self._free.append(number)
