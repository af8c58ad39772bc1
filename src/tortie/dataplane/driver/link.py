"""What links there are; and what the kernel must be told of each workload's link.

Workload links are known by their names alone, so every one of them gets its
settings as soon as it is seen, endpoint or not. A link that has gone and come
back is another link to the kernel: it gets everything again.
"""

import logging
from typing import NamedTuple

from tortie.dataplane.driver.sysctl import SysctlDriver, SysctlKey
from tortie.dataplane.settings import Settings
from tortie.kernel import sysctl
from tortie.kernel.rtnl.link import Link

log = logging.getLogger(__name__)


class _LinkSetting(NamedTuple):
    family: int
    key: str
    value: str
    table: str = "conf"


_SETTINGS = (
    # The host answers ARP for whatever a workload asks, the default gateway
    # 169.254.1.1 above all; at once, where the kernel would wait up to 0.8 s.
    _LinkSetting(4, "proxy_arp", "1"),
    _LinkSetting(4, "proxy_delay", "0", "neigh"),
    _LinkSetting(4, "forwarding", "1"),
    # The kernel's own check of sources, behind that of our rules.
    _LinkSetting(4, "rp_filter", "1"),
    # Never set: route_localnet, which would open the host's loopback services.
    _LinkSetting(4, "route_localnet", "0"),
    _LinkSetting(4, "accept_redirects", "0"),
    _LinkSetting(4, "send_redirects", "0"),
    _LinkSetting(4, "accept_source_route", "0"),
    _LinkSetting(6, "accept_ra", "0"),
    _LinkSetting(6, "accept_redirects", "0"),
    _LinkSetting(6, "forwarding", "1"),
    _LinkSetting(6, "proxy_delay", "0", "neigh"),
)


_RP_FILTER = "rp_filter"
_NO_CHECK = "0"


class Links:
    """Every link of the namespace by name, as last heard. Loop task only."""

    def __init__(self, sysctls: SysctlDriver, settings: Settings) -> None:
        self._sysctls = sysctls
        self._prefixes = settings.interface_prefixes
        self._families = (4, 6) if settings.ipv6 else (4,)
        self._by_name: dict[str, Link] = {}
        self._name_by_index: dict[int, str] = {}
        self._loose: set[str] = set()
        """Links whose sources the kernel is not to check."""

    def get(self, name: str) -> Link | None:
        return self._by_name.get(name)

    def is_workload(self, name: str) -> bool:
        return name.startswith(self._prefixes)

    def name_of(self, index: int) -> str | None:
        return self._name_by_index.get(index)

    def loosen(self, name: str, *, loose: bool) -> None:
        """Leave it to our rules what may come in by a link; or do so no longer.

        The kernel goes by the higher one of the link's own setting and that of all links, which
        is not ours to change. (Loose mode, 2, is no way round: on a link without an address, as
        ours are, it takes as little as strict mode does.)
        """
        if loose == (name in self._loose):
            return
        if loose and sysctl.get_interface(4, "all", _RP_FILTER) != _NO_CHECK:
            log.warning(
                "net.ipv4.conf.all.rp_filter is not 0: the kernel drops what %s sends from"
                " addresses that are not routed to it",
                name,
            )
        (self._loose.add if loose else self._loose.discard)(name)
        if name in self._by_name:
            self._want_settings(name)

    def observe(self, link: Link) -> set[str]:
        """The link is there. Returns the names it concerns: a renamed link's old one too."""
        concerned = {link.name}
        old_name = self._name_by_index.get(link.index)
        if old_name is not None and old_name != link.name:
            concerned.add(old_name)
            self._remove(old_name)
        before = self._by_name.get(link.name)
        if before is not None and before.index != link.index:
            self._remove(link.name)
            before = None
        self._by_name[link.name] = link
        self._name_by_index[link.index] = link.name
        if before is None and self.is_workload(link.name):
            self._want_settings(link.name)
        return concerned

    def _want_settings(self, name: str) -> None:
        for setting in _SETTINGS:
            value = setting.value
            if setting.key == _RP_FILTER and name in self._loose:
                value = _NO_CHECK
            if setting.family in self._families or setting.key == "accept_ra":
                self._sysctls.want(_key(name, setting), value)

    def observe_gone(self, link: Link) -> set[str]:
        """The link is gone: the names it concerns.

        Compared by index: a new link may already have the name, and its event
        may have come first.
        """
        name = self._name_by_index.get(link.index)
        if name is None:
            return set()
        self._remove(name)
        return {name}

    def observe_all(self, links: list[Link]) -> set[str]:
        """All there are. Returns the names of those that differ from before."""
        present = {link.index for link in links}
        concerned: set[str] = set()
        for index in [index for index in self._name_by_index if index not in present]:
            concerned |= self.observe_gone(self._by_name[self._name_by_index[index]])
        for link in links:
            if self._by_name.get(link.name) != link:
                concerned |= self.observe(link)
        return concerned

    def _remove(self, name: str) -> None:
        link = self._by_name.pop(name)
        self._name_by_index.pop(link.index, None)
        self._sysctls.forget_interface(name)


def _key(name: str, setting: _LinkSetting) -> SysctlKey:
    return SysctlKey(setting.family, name, setting.table, setting.key)
