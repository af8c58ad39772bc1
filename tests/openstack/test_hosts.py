"""Neutron, two hosts with agents, and guests: what the API says is what packets find."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.live import need_root
from tests.openstack.conftest import Releases
from tests.openstack.server import NEWEST
from tests.openstack.site import Guest, Site, run

pytestmark = pytest.mark.timeout(240)

GAP_SECONDS = 5.0
"""A move may take, on a machine under load; on a quiet one it is a fraction of a second."""


@pytest.fixture(scope="module")
def site(release: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    need_root()
    made = Site(f"osn{os.getpid()}", "etcd", "direct", hosts=2)
    try:
        made.begin(release(NEWEST), tmp_path_factory.mktemp("site"))
        yield made
    finally:
        made.end()


class Tenant:
    """A network, and two groups: `web` answers `client` on port 80 and nobody else."""

    def __init__(self, site: Site, third: int) -> None:
        self.site = site
        neutron = site.neutron
        self.network = neutron.create("network", name="net")
        ours = f"10.65.{third}"
        # The last ones are the tests' own.
        pools = [{"start": f"{ours}.10", "end": f"{ours}.199"}]
        for version, subnet in (
            (4, {"cidr": f"{ours}.0/24", "allocation_pools": pools}),
            (6, {"cidr": f"fd65::{third:x}:0/112"}),
        ):
            fields: dict[str, Any] = {"ip_version": version, "enable_dhcp": False, **subnet}
            neutron.create("subnet", network_id=self.network["id"], **fields)
        self.web, self.client = (
            neutron.create("security_group", name=name)["id"] for name in ("web", "client")
        )
        for group in (self.web, self.client):
            for ethertype in ("IPv4", "IPv6"):
                self.rule(group, "egress", ethertype=ethertype)
        self.rules = [
            self.rule(
                self.web, "ingress", ethertype=ethertype, protocol="tcp", port_range_min=80,
                port_range_max=80, remote_group_id=self.client,
            )
            for ethertype in ("IPv4", "IPv6")
        ]  # fmt: skip

    def rule(self, group: str, direction: str, **fields: Any) -> str:
        neutron = self.site.neutron
        known = neutron.list(
            "security_group_rule",
            f"?security_group_id={group}&direction={direction}&ethertype={fields['ethertype']}",
        )
        for each in known:  # what Neutron gives a new group depends on its release
            if not each["protocol"] and direction == "egress":
                return str(each["id"])
        made = neutron.create(
            "security_group_rule", security_group_id=group, direction=direction, **fields
        )
        return str(made["id"])

    def guest(self, host: str, group: str, **fields: Any) -> Guest:
        return self.site.boot(self.port(host, group, **fields), host)

    def port(self, host: str, group: str, **fields: Any) -> dict[str, Any]:
        return self.site.neutron.create(
            "port", network_id=self.network["id"], security_groups=[group],
            device_owner="compute:nova", device_id=f"vm-{time.monotonic_ns()}",
            **{"binding:host_id": host}, **fields,
        )  # fmt: skip


def eventually(site: Site, source: Guest, target: Guest, family: int = 4) -> None:
    site.eventually(
        lambda: source.reaches(target, family),
        f"{source.addresses[family]} does not reach {target.addresses[family]}",
    )


def test_guests_reach_each_other_by_security_group_and_are_cut_when_the_rule_goes(
    site: Site,
) -> None:
    tenant = Tenant(site, 201)
    web, client = tenant.guest("h1", tenant.web), tenant.guest("h2", tenant.client)
    beside, stranger = tenant.guest("h1", tenant.client), tenant.guest("h2", tenant.web)

    for source in (client, beside):
        for family in (4, 6):
            eventually(site, source, web, family)
    for family in (4, 6):
        assert not stranger.reaches(web, family), "it is not in the group"
        assert not web.reaches(client, family), "the rule is one way"

    open_connection = client.connect(web)
    for rule in tenant.rules:
        site.neutron.delete("security_group_rule", rule)
    site.eventually(lambda: not client.reaches(web), "the rule is gone, and packets pass")
    site.eventually(lambda: not client.reaches(web, 6), "the rule is gone, and packets pass")
    open_connection.settimeout(2.0)
    open_connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(TimeoutError):
        open_connection.recv(1)
    open_connection.close()


def test_a_guest_moves_and_keeps_its_address_and_its_protection(site: Site) -> None:
    tenant = Tenant(site, 202)
    web, client = tenant.guest("h1", tenant.web), tenant.guest("h2", tenant.client)
    stranger = tenant.guest("h1", tenant.web)
    eventually(site, client, web)

    web.unplug()
    site.eventually(lambda: site.status(web.port) == "DOWN", "its tap is gone")
    site.neutron.update("port", web.port["id"], **{"binding:host_id": "h2"})
    web.plug("h2")

    site.becomes_active(web.port)
    for family in (4, 6):
        eventually(site, client, web, family)
        assert not stranger.reaches(web, family)
    assert web.tap not in site.kernel_text("h1"), "h1 has forgotten it"

    site.neutron.delete("port", web.port["id"])
    site.eventually(lambda: not client.reaches(web), "a deleted port is closed")


def test_a_port_without_security_groups_is_closed_and_one_without_port_security_open(
    site: Site,
) -> None:
    tenant = Tenant(site, 203)
    closed = site.boot(
        site.neutron.create(
            "port", network_id=tenant.network["id"], security_groups=[],
            device_owner="compute:nova", device_id="closed", **{"binding:host_id": "h1"},
        ),
        "h1",
    )  # fmt: skip
    client = tenant.guest("h2", tenant.client)
    assert not client.reaches(closed)

    site.neutron.update("port", closed.port["id"], port_security_enabled=False)
    eventually(site, client, closed)
    site.neutron.update("port", closed.port["id"], port_security_enabled=True)
    site.eventually(lambda: not client.reaches(closed), "it is open")


def test_a_guest_cannot_send_from_addresses_that_are_not_its_own(site: Site) -> None:
    """Neutron's advisories of anti-spoofing that address pairs or a MAC get around."""
    tenant = Tenant(site, 204)
    web, client = tenant.guest("h1", tenant.web), tenant.guest("h2", tenant.client)
    eventually(site, client, web)
    other = "10.65.204.250"
    namespace = ("ip", "-n", client.namespace)
    run(*namespace, "address", "add", f"{other}/32", "dev", "eth0")
    run(*namespace, "route", "replace", "default", "via", "169.254.1.1", "dev", "eth0", "src",
             other)  # fmt: skip
    assert not client.reaches(web), "sent from an address of nobody's"

    # Allowed for it, it may; and a MAC of an address pair opens no other address.
    pair = {"ip_address": other, "mac_address": "fa:16:3e:ff:ff:ff"}
    site.neutron.update("port", client.port["id"], allowed_address_pairs=[pair])
    eventually(site, client, web)
    run(*namespace, "address", "add", "10.65.204.251/32", "dev", "eth0")
    run(*namespace, "route", "replace", "default", "via", "169.254.1.1", "dev", "eth0", "src",
             "10.65.204.251")  # fmt: skip
    assert not client.reaches(web)


def test_l14_a_live_migration(site: Site) -> None:
    """The destination is prepared, the guest changes over, the source goes."""
    tenant = Tenant(site, 205)
    web, client = tenant.guest("h1", tenant.web), tenant.guest("h1", tenant.client)
    stranger = tenant.guest("h1", tenant.web)
    eventually(site, client, web)
    site.neutron.update("port", web.port["id"], **{"binding:profile": {"migrating_to": "h2"}})
    time.sleep(1.0)
    assert client.reaches(web, seconds=3.0), "while it is prepared, it answers where it is"

    started = time.monotonic()
    web.unplug()
    web.plug("h2")
    changed = {"binding:profile": {}, "binding:host_id": "h2"}
    site.neutron.update("port", web.port["id"], **changed)
    eventually(site, client, web)
    assert time.monotonic() - started < GAP_SECONDS
    assert not stranger.reaches(web)
    site.becomes_active(web.port)

    # And back, which fails: it stays where it is.
    site.neutron.update("port", web.port["id"], **{"binding:profile": {"migrating_to": "h1"}})
    site.neutron.update("port", web.port["id"], **{"binding:profile": {}})
    eventually(site, client, web)

    # Deleted on its way: neither host has it.
    site.neutron.update("port", web.port["id"], **{"binding:profile": {"migrating_to": "h1"}})
    site.neutron.delete("port", web.port["id"])
    site.eventually(lambda: not client.reaches(web), "it is deleted")
    for host in ("h1", "h2"):
        site.eventually(
            lambda host=host: (
                not any(
                    str(route.destination).startswith(f"{web.addresses[4]}/")
                    for route in site.routes(host)
                )
            ),
            f"{host} has a route",
        )


def test_neutron_away_nothing_changes_for_guests(site: Site) -> None:
    tenant = Tenant(site, 206)
    web, client = tenant.guest("h1", tenant.web), tenant.guest("h2", tenant.client)
    eventually(site, client, web)
    site.neutron.stop(signal.SIGKILL)
    try:
        assert client.reaches(web, seconds=3.0)
    finally:
        site.neutron.start()
    eventually(site, client, web)
    site.neutron.delete("security_group_rule", tenant.rules[0])
    site.eventually(lambda: not client.reaches(web), "Neutron is back")
