"""Which endpoints claim an address, and which claimed addresses lie in a network.

There may be one address for every endpoint of the cluster, so both forms here are small: an
address costs an entry in a table, and a packed list of networks one string of bytes.
"""

from collections.abc import Iterable, Iterator

from tortie.desired.endpoint import EndpointId
from tortie.lib.ip import Network, from_packed

BUCKET_BITS = 6
"""Addresses are kept by 64: a block of default size, in either family, is one bucket."""

_Bucket = tuple[int, int]
"""Family, and the address without its last `BUCKET_BITS`."""

_Claimants = EndpointId | tuple[EndpointId, ...]
"""One, or several with the lowest first."""

_Claims = tuple[int, tuple[_Claimants, ...]]
"""Of one bucket: a bit for each ordinal that is claimed, and by whom, in their order. For a full
one a quarter of what a dict takes."""

_NO_CLAIMS: _Claims = 0, ()

_BYTES = {4: 4, 6: 16}


class Addresses:
    """Claims to addresses, in buckets, so that those in a block are found without a search."""

    def __init__(self) -> None:
        self._buckets: dict[_Bucket, _Claims] = {}

    def add(self, address: Network, endpoint: EndpointId) -> None:
        claimants = {*self.claimants(address), endpoint}
        self._replace(address, _claimants(claimants))

    def discard(self, address: Network, endpoint: EndpointId) -> None:
        left = set(self.claimants(address)) - {endpoint}
        self._replace(address, _claimants(left) if left else None)

    def claimants(self, address: Network) -> tuple[EndpointId, ...]:
        """Lowest first."""
        bits, claimants = self._buckets.get(_bucket(address), _NO_CLAIMS)
        bit = 1 << _ordinal(address)
        return _several(claimants[(bits & (bit - 1)).bit_count()]) if bits & bit else ()

    def within(self, network: Network) -> Iterator[Network]:
        """The claimed addresses inside, each once; costs about what there is to find."""
        for (family, number), bucket in self._buckets_of(network):
            for ordinal in _ordinals(bucket[0]):
                address = Network(family, number << BUCKET_BITS | ordinal, network.bits)
                if network.contains(address):
                    yield address

    def _replace(self, address: Network, claimants: "_Claimants | None") -> None:
        """None: nobody claims it any more."""
        number, bit = _bucket(address), 1 << _ordinal(address)
        bits, several = self._buckets.get(number, _NO_CLAIMS)
        place = (bits & (bit - 1)).bit_count()
        behind = several[place + bool(bits & bit) :]
        if claimants is not None:
            self._buckets[number] = bits | bit, (*several[:place], claimants, *behind)
        elif bits != bit:
            self._buckets[number] = bits & ~bit, (*several[:place], *behind)
        else:
            del self._buckets[number]

    def _buckets_of(self, network: Network) -> Iterable[tuple[_Bucket, "_Claims"]]:
        family, first = _bucket(network)
        last = network.last >> BUCKET_BITS
        if last - first >= len(self._buckets):
            return (item for item in self._buckets.items() if item[0][0] == family)
        numbers = ((family, number) for number in range(first, last + 1))
        return ((one, self._buckets[one]) for one in numbers if one in self._buckets)


class AddressSet:
    """Addresses in no order of their own; where they lie close together, a few bits for each."""

    def __init__(self) -> None:
        self._buckets: dict[_Bucket, int] = {}
        """Bits, by the last `BUCKET_BITS` of an address."""

    def add(self, address: Network) -> None:
        number = _bucket(address)
        self._buckets[number] = self._buckets.get(number, 0) | 1 << _ordinal(address)

    def __iter__(self) -> Iterator[Network]:
        for (family, number), bits in self._buckets.items():
            length = Network(family, 0, 0).bits
            for ordinal in _ordinals(bits):
                yield Network(family, number << BUCKET_BITS | ordinal, length)


def pack(networks: Iterable[Network]) -> bytes:
    """A quarter of the memory, for what is only kept; each is its family, length and address."""
    return b"".join(bytes((one.family, one.length)) + one.packed for one in networks)


def unpack(packed: bytes) -> tuple[Network, ...]:
    networks = []
    position = 0
    while position < len(packed):
        family, length = packed[position], packed[position + 1]
        end = position + 2 + _BYTES[family]
        networks.append(from_packed(packed[position + 2 : end], length))
        position = end
    return tuple(networks)


def _bucket(network: Network) -> _Bucket:
    return network.family, network.value >> BUCKET_BITS


def _ordinal(address: Network) -> int:
    return address.value & ((1 << BUCKET_BITS) - 1)


def _ordinals(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def _several(claimants: _Claimants | None) -> tuple[EndpointId, ...]:
    if claimants is None:
        return ()
    return (claimants,) if isinstance(claimants, EndpointId) else claimants


def _claimants(endpoints: set[EndpointId]) -> _Claimants:
    several = tuple(sorted(endpoints))
    return several[0] if len(several) == 1 else several
