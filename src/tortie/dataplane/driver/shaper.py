"""Bandwidth of workloads' links: what they get, and by way of a link beside them what they send.

Loop task only. A bandwidth is no protection: one that the kernel refuses is logged,
stays pending and keeps nothing else waiting.

Ownership: buckets and diversions by their handles (see `kernel.rtnl.shaper`), links
beside others by their names. The first `resync` takes away what nobody wants.
"""

from tortie.dataplane.driver.link import Links
from tortie.dataplane.rules import names
from tortie.desired.endpoint import Bandwidth, Limits
from tortie.kernel.rtnl.backend import Backend
from tortie.kernel.rtnl.link import Link, LinkChange
from tortie.kernel.rtnl.shaper import Bucket
from tortie.lib.errors import AlreadyExists, KernelBusy, NotFound, TortieError

LATENCY_SECONDS = 0.025
"""How long a packet may wait. Source: Calico, felix/dataplane/linux/qos/qos.go."""
HEADER_BYTES = 14
_MOST = 0xFFFFFFFF

_Wanted = tuple[Bandwidth | None, Bandwidth | None]
"""Of what the workload gets, and of what it sends."""
_NOTHING: _Wanted = None, None


class ShaperDriver:
    def __init__(self, backend: Backend, links: Links) -> None:
        self._backend = backend
        self._links = links
        self._wanted: dict[str, _Wanted] = {}
        """By interface."""
        self._done: dict[str, tuple[int, _Wanted]] = {}
        """What was done, to which link of that name."""
        self._diverted: dict[str, str] = {}
        """By the name of a link beside: the interface whose packets come by it."""
        self._pending: dict[str, None] = {}
        self._is_first = True

    def want(self, interface: str, limits: Limits) -> None:
        wanted = limits.ingress_bandwidth, limits.egress_bandwidth
        if self._wanted.get(interface, _NOTHING) == wanted:
            return
        if wanted == _NOTHING:
            del self._wanted[interface]
        else:
            self._wanted[interface] = wanted
        self._pending[interface] = None

    def on_link(self, name: str) -> None:
        """The link of this name came, went or changed."""
        if name in self._wanted or name in self._done:
            self._pending[name] = None
        diverted = self._diverted.get(name)
        if diverted is not None and self._links.get(name) is None:
            # What comes in has nowhere to go now: all of it again.
            self._done.pop(diverted, None)
            self._pending[diverted] = None

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def apply(self) -> list[TortieError]:
        """Write what differs; returns what the kernel refused, which stays pending.

        Raises:
            KernelBusy: some may have been done; `resync`, then again.
        """
        refused = []
        for name in tuple(self._pending):
            error = self._write(name)
            if isinstance(error, KernelBusy):
                raise error
            if error is None or isinstance(error, NotFound):  # it comes again with its link
                del self._pending[name]
            else:
                refused.append(error)
        return refused

    def resync(self) -> None:
        """Read back; what differs is written by the next `apply`."""
        if not (self._wanted or self._done or self._is_first):
            return
        shapes = {one.interface: (one.rate, one.limit) for one in self._backend.shapes()}
        if self._is_first:
            self._remove_former(frozenset(shapes))
        self._is_first = False
        for name, (ingress, egress) in self._wanted.items():
            for link, bandwidth in (
                (self._links.get(name), ingress),
                (self._links.get(_beside(name)), egress),
            ):
                if bandwidth is None:
                    continue
                bucket = _bucket(bandwidth, link) if link else None
                found = shapes.get(link.index) if link else None
                if bucket is None or found != (bucket.rate, bucket.limit):
                    self._done.pop(name, None)
                    self._pending[name] = None

    def _remove_former(self, shaped: frozenset[int]) -> None:
        """Of an earlier process, and wanted no more."""
        everywhere = self._backend.links()
        kept = {_beside(name) for name, wanted in self._wanted.items() if wanted[1]}
        former = [one for one in everywhere if _is_beside(one) and one.name not in kept]
        workloads = [one for one in everywhere if self._links.is_workload(one.name)]
        if former:
            unwanted = [one for one in workloads if not self._wanted.get(one.name, _NOTHING)[1]]
            self._backend.undivert_links([one.index for one in unwanted])
            self._backend.delete_links([one.index for one in former])
        self._backend.unshape_links(
            [
                one.index
                for one in workloads
                if one.index in shaped and not self._wanted.get(one.name, _NOTHING)[0]
            ]
        )

    def _write(self, name: str) -> TortieError | None:
        wanted = self._wanted.get(name, _NOTHING)
        link = self._links.get(name)
        index, before = self._done.get(name, (0, _NOTHING))
        if link is None:
            self._remove_beside(name, before)
            self._done.pop(name, None)
            return None
        if index != link.index:
            before = _NOTHING
        if (index, before) == (link.index, wanted):
            return None
        try:
            self._write_ingress(link, before[0], wanted[0])
            self._write_egress(link, before, wanted[1])
        except TortieError as error:
            return error
        if wanted == _NOTHING:
            self._done.pop(name, None)
        else:
            self._done[name] = link.index, wanted
        return None

    def _write_ingress(
        self, link: Link, before: Bandwidth | None, wanted: Bandwidth | None
    ) -> None:
        if wanted is not None:
            _check(self._backend.shape_links([(link.index, _bucket(wanted, link))]))
        elif before is not None:
            self._backend.unshape_links([link.index])

    def _write_egress(self, link: Link, before: _Wanted, wanted: Bandwidth | None) -> None:
        if wanted is None:
            if before[1] is not None:
                self._backend.undivert_links([link.index])
                self._remove_beside(link.name, before)
            return
        name = _beside(link.name)
        try:
            beside = self._backend.create_ifb(name, mtu=link.mtu)
        except AlreadyExists:
            beside = self._backend.link(name)
        self._backend.change_link(beside.index, LinkChange(up=True))
        _check(self._backend.shape_links([(beside.index, _bucket(wanted, link))]))
        _check(self._backend.divert_links([(link.index, beside.index)]))
        self._diverted[name] = link.name

    def _remove_beside(self, name: str, before: _Wanted) -> None:
        if before[1] is None:
            return
        self._diverted.pop(_beside(name), None)
        try:
            beside = self._backend.link(_beside(name))
        except NotFound:
            return
        self._backend.delete_links([beside.index])


_BESIDE = "tbw"


def _beside(interface: str) -> str:
    """The name of the link that what comes in by this one goes through."""
    return f"{_BESIDE}{names.digest(interface)[:11]}"


def _is_beside(link: Link) -> bool:
    return link.kind == "ifb" and link.name.startswith(_BESIDE)


def _check(outcomes: list[TortieError | None]) -> None:
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def _bucket(bandwidth: Bandwidth, link: Link) -> Bucket:
    rate, burst = bandwidth.rate // 8, min(bandwidth.burst // 8, _MOST)
    limit = int(rate * LATENCY_SECONDS) + burst
    peak_rate = peak_burst = 0
    if bandwidth.peak_rate:
        peak_rate = bandwidth.peak_rate // 8
        peak_burst = max(bandwidth.peak_burst, link.mtu + HEADER_BYTES)
        limit = min(limit, int(peak_rate * LATENCY_SECONDS) + peak_burst)
    return Bucket(rate, burst, min(limit, _MOST), peak_rate, peak_burst)
