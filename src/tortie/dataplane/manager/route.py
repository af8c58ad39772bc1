"""Routes of desired state to the kernel's, as far as links are there for them.

A route to a workload exists while its link is up: the kernel refuses it before,
and takes it away itself when the link goes down.
"""

from collections import defaultdict
from collections.abc import Hashable
from typing import cast

from tortie.dataplane.driver.link import Links
from tortie.dataplane.driver.route import RouteDriver
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Route, RouteType
from tortie.desired.kinds import Kind
from tortie.kernel.rtnl import route as kernel
from tortie.lib.ip import Network


class RouteManager:
    def __init__(self, driver: RouteDriver, links: Links, settings: Settings) -> None:
        self._driver = driver
        self._links = links
        self._settings = settings
        self._installs_remote = settings.install_remote_routes
        self._sources = {one.family: one for one in settings.route_sources}
        self._routes: dict[Network, Route] = {}
        self._by_interface: defaultdict[str, set[Network]] = defaultdict(set)
        self._index: dict[str, int] = {}
        """Of links that are up."""

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`ROUTE`."""
        assert kind is Kind.ROUTE
        destination = cast(Network, name)
        route = cast("Route | None", value)
        old = self._routes.pop(destination, None)
        if old is not None and old.interface:
            self._by_interface[old.interface].discard(destination)
        if route is not None:
            self._routes[destination] = route
            if route.interface:
                self._by_interface[route.interface].add(destination)
        self._driver.want(destination, self._kernel_route(destination))

    def on_link(self, name: str) -> None:
        """The link of this name came, went or changed.

        A link that was down, or is another one now, has lost its routes; the
        kernel does not tell. One that is gone may only have been renamed, with
        its routes: they are deleted, if they are there.
        """
        link = self._links.get(name)
        new = link.index if link is not None and link.up else None
        old = self._index.pop(name, None)
        if new is not None:
            self._index[name] = new
        if new == old:
            return
        for destination in self._by_interface.get(name, ()):
            if new is not None:
                self._driver.forget(destination)
            self._driver.want(destination, self._kernel_route(destination))

    def remote_destinations(self) -> frozenset[Network]:
        """Destinations that lead to other hosts, as far as those have addresses."""
        return frozenset(
            destination
            for destination, route in self._routes.items()
            if route.type is RouteType.REMOTE and route.gateway is not None
        )

    def stop_remote(self) -> None:
        """From now on somebody else installs the routes to other hosts."""
        self._installs_remote = False
        for destination in self.remote_destinations():
            self._driver.want(destination, None)

    def _kernel_route(self, destination: Network) -> kernel.Route | None:
        """None: no such route now."""
        route = self._routes.get(destination)
        if route is None or (destination.family == 6 and not self._settings.ipv6):
            return None
        if not self._settings.install_routes:
            return None
        protocol = self._settings.route_protocol
        if route.type is RouteType.LOCAL_BLOCK:
            return kernel.Route(
                destination=destination, kind=kernel.Kind.BLACKHOLE, protocol=protocol
            )
        if route.type is RouteType.LOCAL_WORKLOAD:
            link = self._links.get(route.interface)
            if link is None or not link.up:
                return None
            return kernel.Route(
                destination=destination,
                interface=link.index,
                protocol=protocol,
                scope=kernel.SCOPE_LINK if destination.family == 4 else kernel.SCOPE_UNIVERSE,
                source=self._sources.get(destination.family),
            )
        if route.gateway is None or not self._installs_remote:
            return None
        return kernel.Route(destination=destination, gateway=route.gateway, protocol=protocol)
