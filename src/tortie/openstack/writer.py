"""One thing, or a few, brought to where Neutron's database says; the rule that makes it safe.

Every writer, in any process, does this and nothing else:

    1. read the datastore, with versions
    2. then read the database
    3. write the difference, each key only if its version is still that of 1
    4. again from 1, until there is no difference

What was read last is written last: a version is never used twice, so of two writers who saw the
same one only the first gets through, and the other reads the database anew. Round 4 is for what
versions do not show. A port may be deleted, by somebody who finds nothing to delete, between 2
and 3, and 3 creates an endpoint that nobody removes; or it may be changed and changed back, and
whoever sees to the latter finds it right already, just before 3 writes what was in between. Both
commit to the database before they look at the datastore. So either they look after 3 and see
what it did, or their commit comes before the second reading of the database, which sees theirs.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from tortie.datastore.client import Txn, present
from tortie.lib.errors import Conflict
from tortie.model.keys import PLURALS, RESOURCES
from tortie.openstack.inventory import Inventory
from tortie.openstack.kinds import Groups, Kind, Ports, Subnets
from tortie.openstack.settings import Settings
from tortie.openstack.store import Change, Content, Store, change

ROUNDS = 20
"""Against other writers of the same keys; each round one of them at least got through."""


_MIGRATIONS = f"{RESOURCES}{PLURALS['LiveMigration']}/"


class Settled(NamedTuple):
    """What it took."""

    created: int = 0
    updated: int = 0
    deleted: int = 0
    raced: int = 0
    """Times that another writer was faster."""
    unconfirmed: bool = False
    """Round 4 is still to come; see `Writer.port`."""
    problems: tuple[str, ...] = ()
    """What the newest state has that cannot be expressed; see `translation`."""

    def plus(self, changes: Iterable[Change], lost: Collection[Change]) -> "Settled":
        done = [each for each in changes if each not in lost]
        deleted = sum(each.value is None for each in done)
        created = sum(each.creates for each in done)
        return self._replace(
            created=self.created + created,
            updated=self.updated + len(done) - deleted - created,
            deleted=self.deleted + deleted,
            raced=self.raced + len(lost),
        )


class Writer:
    """For Neutron's callbacks; shared by threads and forks like its gateway.

    Each method looks at what is and makes it so: the same call after a creation, a change or a
    deletion, once or again, in any order.

    Every method may raise:
        Unavailable: the datastore does not answer; with `maybe_applied` the write may have
            happened. A resync, or the next call, repairs what is missing.
        Denied: credentials are missing, wrong or not enough.
        Conflict: others write the same keys all the time.
        whatever the inventory raises; nothing is written then.
    """

    def __init__(self, store: Store, inventory: Inventory, settings: Settings) -> None:
        self._store = store
        self._ports = Ports(inventory, settings)
        self._groups = Groups(inventory, settings)
        self._subnets = Subnets(inventory, settings)

    def port(
        self, port_id: str, places: Collection[tuple[str, str]] = (), *, confirm: bool = True
    ) -> Settled:
        """After any change of a port, of its addresses, groups, floating addresses or QoS.

        Args:
            places: hosts and devices where it is, may have been or was on its way to, as far
                as the caller knows. What it does not know here is left to the next resync.
            confirm: False leaves the last round out: one reading of the database less while a
                user waits. Whoever gets `unconfirmed` calls again soon, in the background.
        """
        paths = self._ports.paths_of(port_id, places)
        return settle(self._store, self._ports, [port_id], paths, confirm=confirm)

    def security_group(self, group_id: str) -> Settled:
        """After any change of a group, of its rules or of an address group that they name."""
        return settle(self._store, self._groups, [group_id], self._groups.paths_of(group_id))

    def security_groups(self, group_ids: Collection[str]) -> Settled:
        """Several at once."""
        paths = [path for group_id in group_ids for path in self._groups.paths_of(group_id)]
        return settle(self._store, self._groups, group_ids, paths)

    def missing_groups(self, group_ids: Collection[str]) -> Settled:
        """Write the policies of those that have none; one cheap look when none is missing."""
        paths = {path: each for each in group_ids for path in self._groups.paths_of(each)}
        if not paths:
            return Settled()
        look = Txn([present(path) for path in paths])
        if self._store.gateway.transact(look).succeeded:
            return Settled()
        gone = [each for path, each in paths.items() if self._store.read([path])[path] is None]
        return self.security_groups(gone)

    def subnet(self, subnet_id: str) -> Settled:
        """After any change of a subnet, or of the MTU of its network."""
        return settle(self._store, self._subnets, [subnet_id], self._subnets.paths_of(subnet_id))


def settle(
    store: Store,
    kind: Kind,
    ids: Collection[str],
    paths: Iterable[str],
    *,
    confirm: bool = True,
) -> Settled:
    """Make what is stored of some things what the database says.

    Args:
        paths: where something of them may be stored; where it should be is found out.
        confirm: False ends after the first round that wrote all that it wanted to.
    """
    known = dict.fromkeys(paths)
    done = Settled()
    for _ in range(ROUNDS):
        there = store.read(known)
        wanted: dict[str, Content] = {}
        problems: list[str] = []
        for item in kind.items(ids):
            wanted.update(item.contents)
            problems += item.problems
        if not wanted.keys() <= known.keys():
            known |= dict.fromkeys(wanted)
            continue  # those were not read, and the datastore must be read first
        changes = [each for path in known if (each := change(path, there[path], wanted.get(path)))]
        done = done._replace(problems=tuple(problems))
        if not changes:
            return done
        lost = store.write(sorted(changes, key=_turn))
        done = done.plus(changes, lost)
        if not (lost or confirm):
            return done._replace(unconfirmed=True)
    raise Conflict(f"{kind.name} {', '.join(ids)}: others write there all the time")


def _turn(each: Change) -> int:
    """A migration comes before the endpoint that it is about, and goes after the one it left:
    hosts see a transaction's writes in their order."""
    if not each.path.startswith(_MIGRATIONS):
        return 1
    return 2 if each.value is None else 0
