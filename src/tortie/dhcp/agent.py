"""The DHCP agent of a host: datastore and links in, dnsmasqs out. Level-triggered.

Whatever changes, all is decided anew, from what there is: some milliseconds for a thousand guests.
A dnsmasq is touched only if its text differs. Changes that come together are one: a hundred ports
that appear in a second cost some starts, not a hundred.

Nothing happens before the first snapshot is complete: what a former agent left goes on serving.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tortie.datastore.client import Client
from tortie.datastore.syncer import Syncer
from tortie.dhcp.dnsmasq import Dnsmasq, end_leftover, find_executable, find_user
from tortie.dhcp.render import render
from tortie.dhcp.served import Defaults, Served
from tortie.dhcp.settings import Settings
from tortie.dhcp.source import Source, prefixes
from tortie.dhcp.taps import Taps
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import Link
from tortie.kernel.rtnl.monitor import Event, Group, LinkChanged, LinkGone, Monitor
from tortie.lib import supervisor
from tortie.lib.errors import InvalidInput, TortieError

log = logging.getLogger(__name__)

TOGETHER_SECONDS = 0.2
"""How long changes are collected, the first of them included: a guest takes longer to start."""
AGAIN_SECONDS = 60.0
"""After this at the latest all is looked at once more; earlier if something failed."""
RETRY_SECONDS = 5.0


class Statistics(NamedTuple):
    networks: int
    guests: int
    starts: int
    """Of dnsmasqs, since the start."""
    problems: int


class DhcpAgent:
    """
    Args:
        directory: for what dnsmasqs read; of root alone.
        interface_prefixes: of workloads' links. Asked each time: it may be stored, and the host's
            agent, which finds that out, may come after us.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        directory: Path,
        interface_prefixes: Callable[[], tuple[str, ...]] = lambda: ("cali",),
    ) -> None:
        self._settings = settings
        self._interface_prefixes = interface_prefixes
        self._client = client
        self._directory = directory
        self._changed = asyncio.Event()
        self._links: dict[int, Link] = {}
        self._arrivals: Counter[int] = Counter()
        """By link: how often somebody has taken it up. A hypervisor that starts a guest anew does:
        it may call itself something else then (its DUID), and dnsmasq would keep its address for
        who it was before."""
        self._served: dict[str, Dnsmasq] = {}
        self._problems: dict[str, str] = {}
        self._last: dict[str, Served] = {}
        self._starts = 0
        self._source = Source(settings.host, settings.region, self._changed.set)

    def statistics(self) -> Statistics:
        guests = sum(len(one.guests) for one in self._last.values())
        return Statistics(len(self._last), guests, self._starts, len(self._problems))

    async def run(self) -> None:
        """Serve until cancelled; then the dnsmasqs end, too.

        Raises:
            Unavailable: there is no dnsmasq on this host.
        """
        executable = find_executable()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        watched = prefixes(
            self._settings.host,
            self._settings.region,
            self._settings.namespace,
            openstack_only=self._settings.openstack_only,
        )
        with contextlib.closing(Rtnl.open()) as rtnl:
            monitor = Monitor.open(self._on_link, groups=(Group.LINK,))
            try:
                for link in rtnl.links():
                    self._links[link.index] = link
                monitor.start()
                async with asyncio.TaskGroup() as tasks:
                    syncer = Syncer(self._client, watched, self._source)
                    tasks.create_task(syncer.run(), name="syncer")
                    tasks.create_task(self._work(executable, Taps(rtnl)), name="work")
                    tasks.create_task(_tell_supervisor(), name="supervisor")
            finally:
                monitor.close()
                await asyncio.shield(self._stop())

    def _on_link(self, event: Event) -> None:
        match event:
            case LinkChanged(link):
                before = self._links.get(link.index)
                self._links[link.index] = link
                if before is not None and link.carrier and not before.carrier:
                    self._arrivals[link.index] += 1
                if before is not None and _facts(before) == _facts(link):
                    return
            case LinkGone(link):
                self._links.pop(link.index, None)
                self._arrivals.pop(link.index, None)
            case _:
                with contextlib.closing(Rtnl.open()) as rtnl:
                    self._links = {link.index: link for link in rtnl.links()}
        if self._source.in_sync:
            self._changed.set()

    async def _work(self, executable: str, taps: Taps) -> None:
        await self._changed.wait()
        await self._end_strangers()
        wait_seconds = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds or None):
                    await self._changed.wait()
            await asyncio.sleep(TOGETHER_SECONDS)
            self._changed.clear()
            good = await self._apply(executable, taps)
            wait_seconds = AGAIN_SECONDS if good else RETRY_SECONDS

    async def _apply(self, executable: str, taps: Taps) -> bool:
        links = {link.name: link for link in self._links.values()}
        mtus = {name: link.mtu for name, link in links.items()}
        result = self._source.decide(mtus, self._defaults())
        self._report(result.problems)
        # dnsmasq is not told of links that are not there yet: each comes as a change.
        networks = {
            name: served
            for name, served in ((n, _present(s, links)) for n, s in result.networks.items())
            if served.guests
        }
        taps.apply(networks.values(), {name: link.index for name, link in links.items()})
        good = True
        for name in [name for name in self._served if name not in networks]:
            log.info("network %s has no guests here any more", name)
            await self._served.pop(name).stop()
        for served in networks.values():
            good &= await self._serve(executable, served, links)
        self._last = networks
        return good

    async def _serve(self, executable: str, served: Served, links: Mapping[str, Link]) -> bool:
        dnsmasq = self._served.get(served.name)
        if dnsmasq is None:
            place = self._directory / directory_name(served.name)
            dnsmasq = self._served[served.name] = Dnsmasq(executable, place)
        try:
            text = render(
                served,
                self._settings.defaults,
                lease_seconds=self._settings.lease_seconds,
                user=find_user(),
                log_dhcp=self._settings.log_dhcp,
            )
            present = [links[guest.interface] for guest in served.guests]
            clients = {link.name: (link.index, self._arrivals[link.index]) for link in present}
            if await dnsmasq.serve(text, clients):
                self._starts += 1
                fields = {"network": served.name, "guests": len(served.guests)}
                log.info("serving", extra={"fields": fields})
        except InvalidInput as error:
            log.error("network %s: %s", served.name, error)
        except TortieError as error:
            log.error("network %s: %s", served.name, error)
            return False
        return True

    async def _end_strangers(self) -> None:
        """Those of a former agent whose networks have no guests any more.

        Others are ended when their network is served anew.
        """
        result = self._source.decide({}, self._defaults())
        keep = {directory_name(name) for name in result.networks}
        for place in self._directory.iterdir():
            if place.is_dir() and place.name not in keep:
                await end_leftover(place)
                shutil.rmtree(place, ignore_errors=True)

    async def _stop(self) -> None:
        await asyncio.gather(*(dnsmasq.stop() for dnsmasq in self._served.values()))
        self._served.clear()

    def _defaults(self) -> Defaults:
        return self._settings.defaults._replace(interface_prefixes=self._interface_prefixes())

    def _report(self, problems: Mapping[str, str]) -> None:
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                log.warning("not served: %s: %s", name, problem)
        self._problems = dict(problems)


def directory_name(network: str) -> str:
    """Ids of OpenStack and `host` as they are, anything else by its hash."""
    if re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]{0,63}", network):
        return network
    return hashlib.sha256(network.encode(errors="surrogateescape")).hexdigest()[:32]


def _present(served: Served, links: Mapping[str, Link]) -> Served:
    guests = tuple(guest for guest in served.guests if guest.interface in links)
    return Served(name=served.name, subnets=served.subnets, guests=guests)


def _facts(link: Link) -> tuple[object, ...]:
    return link.name, link.mtu, link.up, link.carrier


async def _tell_supervisor() -> None:
    supervisor.notify(READY="1")
    limit_seconds = supervisor.watchdog_seconds()
    while True:
        supervisor.alive()
        await asyncio.sleep(limit_seconds / 3 if limit_seconds else 3600.0)
