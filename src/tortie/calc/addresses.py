"""Which endpoints claim an address, and which claimed addresses lie in a network."""

from collections.abc import Iterator

from tortie.calc.claims import Claims
from tortie.desired.endpoint import EndpointId
from tortie.lib.ip import Network

BUCKET_BITS = 6
"""Addresses are kept by 64: a block of default size, in either family, is one bucket."""

_Bucket = tuple[int, int]
"""Family, and the address without its last `BUCKET_BITS`."""


class Addresses:
    """Claims to addresses, in buckets, so that those in a block are found without a search."""

    def __init__(self) -> None:
        self._buckets: dict[_Bucket, Claims[Network, EndpointId]] = {}

    def add(self, address: Network, endpoint: EndpointId) -> None:
        bucket = _bucket(address)
        if bucket not in self._buckets:
            self._buckets[bucket] = Claims()
        self._buckets[bucket].add(address, endpoint)

    def discard(self, address: Network, endpoint: EndpointId) -> None:
        bucket = _bucket(address)
        claims = self._buckets[bucket]
        claims.discard(address, endpoint)
        if not claims:
            del self._buckets[bucket]

    def claimants(self, address: Network) -> tuple[EndpointId, ...]:
        """Lowest first."""
        claims = self._buckets.get(_bucket(address))
        return claims.claimants(address) if claims else ()

    def within(self, network: Network) -> Iterator[Network]:
        """The claimed addresses inside, each once; costs about what there is to find."""
        for claims in self._buckets_of(network):
            for address in claims.things():
                if network.contains(address):
                    yield address

    def _buckets_of(self, network: Network) -> Iterator[Claims[Network, EndpointId]]:
        family, first = _bucket(network)
        last = network.last >> BUCKET_BITS
        if last - first >= len(self._buckets):
            yield from self._buckets.values()
            return
        for number in range(first, last + 1):
            if claims := self._buckets.get((family, number)):
                yield claims


def _bucket(network: Network) -> _Bucket:
    return network.family, network.value >> BUCKET_BITS
