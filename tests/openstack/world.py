"""A database on paper, etcd, and the comparison of the two."""

from tests.openstack.paper import PaperInventory

from tortie.openstack.gateway import Gateway
from tortie.openstack.inventory import Port
from tortie.openstack.kinds import Groups, Kind, Ports, Subnets
from tortie.openstack.settings import Settings
from tortie.openstack.store import Store, fingerprint, stored_fingerprint
from tortie.openstack.writer import Writer

Places = list[tuple[str, str]]


class World:
    """A database on paper, its writer, and a comparison of what is stored with it."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.gateway = gateway
        self.settings = settings
        self.inventory = PaperInventory()
        self.store = Store(gateway)
        self.writer = Writer(self.store, self.inventory, settings)

    @property
    def kinds(self) -> list[Kind]:
        given = (self.inventory, self.settings)
        return [Subnets(*given), Groups(*given), Ports(*given)]

    def set(self, port: Port) -> None:
        """A commit, and then the callback of whoever made it."""
        before = self.inventory.all_ports.get(port.id)
        self.inventory.all_ports[port.id] = port
        self.writer.port(port.id, places(port, before))

    def delete(self, port_id: str) -> None:
        before = self.inventory.all_ports.pop(port_id, None)
        self.writer.port(port_id, places(before))

    def differences(self) -> list[str]:
        """Paths where the datastore is not as the database wants it."""
        wanted: dict[str, bytes] = {}
        found: dict[str, bytes] = {}
        for kind in self.kinds:
            for item in kind.items():
                wanted |= {path: fingerprint(what) for path, what in item.contents.items()}
            for prefix in kind.prefixes:
                for page in self.gateway.pages(prefix):
                    for entry in page.entries:
                        found[entry.key] = stored_fingerprint(entry.key, entry.value)
        return sorted(
            path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)
        )


def places(*ports: Port | None) -> Places:
    known = [port for port in ports if port is not None]
    found = [(host, port.device_id) for port in known for host in (port.host, port.migrating_to)]
    return [(host, device) for host, device in found if host]
