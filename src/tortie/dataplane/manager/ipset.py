"""IP sets of desired state to sets of nftables: one for each family.

A `NET` set whose members are addresses, as of nearly every selector, is a hash.
With its first member of more than one address it becomes an interval set: five
times slower to load and slower to look up, but the only one that can hold it.
The kernel cannot turn one into the other, so that is another set, and the rules
that name it are written anew, in the same transaction.

The half of a family of which there is no pool is absent while it has no member:
most clusters have one family, and need no set and no rule for the other one.
Which form a set has depends on members and pools as they are, never on what
they were before.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar, cast

from tortie.dataplane.driver.cover import Cover
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.rules import names
from tortie.dataplane.rules.content import (
    ADDRESS_TYPE,
    NO_DATA,
    address_set,
    interval_set,
    network_key,
)
from tortie.dataplane.rules.policy import Form
from tortie.dataplane.settings import Settings
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, IPSetType
from tortie.kernel.nft import keys
from tortie.kernel.nft.objects import INET_PROTO, INET_SERVICE, Set
from tortie.lib.ip import Network

Member = TypeVar("Member", Network, AddressPort)


class IPSetManager:
    """Members may come in any order and number; overlapping networks are fine."""

    def __init__(self, table: TableState, policies: PolicyManager, settings: Settings) -> None:
        self._table = table
        self._policies = policies
        self._families = (4, 6) if settings.ipv6 else (4,)
        self._types: dict[str, IPSetType] = {}
        self._net_sets: dict[tuple[str, int], _NetSet] = {}
        """By set id and family."""
        self._port_sets: dict[tuple[str, int], _PortSet] = {}
        self._pools: dict[int, set[Network]] = {4: set(), 6: set()}
        self._closed: set[str] = set()
        """Those that the kernel refused: they are not written (see `manager.refusal`)."""

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`POOL`, `IP_SET` and `IP_SET_MEMBER`."""
        if kind is Kind.POOL:
            self._on_pool(cast(Network, name), present=value is not None)
            return
        if kind is Kind.IP_SET:
            self._on_set(cast(str, name), cast("IPSetType | None", value))
            return
        set_id, member = cast("tuple[str, Network | AddressPort]", name)
        present = value is not None
        if isinstance(member, AddressPort):
            family = member.address.family
            port_set = self._port_sets.get((set_id, family))
            if port_set is None:
                return
            turned = port_set.change(member, present=present)
        else:
            family = member.family
            net_set = self._net_sets.get((set_id, family))
            if net_set is None:
                return
            turned = net_set.change(member, present=present)
        if turned:
            self._tell_form(set_id, family)
        self._policies.on_member(set_id, added=present)

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        """Whether the address, or address and port, is in the set."""
        if isinstance(member, AddressPort):
            port_set = self._port_sets.get((set_id, member.address.family))
            return port_set is not None and port_set.contains(member)
        net_set = self._net_sets.get((set_id, member.family))
        return net_set is not None and net_set.contains(member)

    def close(self, name: Hashable, *, closed: bool) -> None:
        """Write no more of the set, and have the policies that name it drop; or as before."""
        set_id = cast(str, name)
        if closed:
            self._closed.add(set_id)
        else:
            self._closed.discard(set_id)
        for family in self._families:
            for kernel_name in self._kernel_names(set_id, family):
                self._table.withhold(kernel_name, withheld=closed)
        self._policies.close_set(set_id, closed=closed)

    def id_of(self, name: str) -> str | None:
        """The set that the kernel knows by this name."""
        for set_id in self._types:
            for family in self._families:
                if name in self._kernel_names(set_id, family):
                    return set_id
        return None

    def _kernel_names(self, set_id: str, family: int) -> Iterator[str]:
        half = self._half(set_id, family)
        if half is not None and half.name:
            yield half.name

    def _half(self, set_id: str, family: int) -> "_NetSet | _PortSet | None":
        return self._net_sets.get((set_id, family)) or self._port_sets.get((set_id, family))

    def _tell_form(self, set_id: str, family: int) -> None:
        half = self._half(set_id, family)
        self._policies.on_form(set_id, family, None if half is None else half.form)
        if set_id in self._closed and half is not None and half.name:
            self._table.withhold(half.name, withheld=True)

    def _on_pool(self, pool: Network, *, present: bool) -> None:
        pools = self._pools[pool.family]
        before = bool(pools)
        if present:
            pools.add(pool)
        else:
            pools.discard(pool)
        if bool(pools) is before or pool.family not in self._families:
            return
        for set_id in self._types:
            half = self._half(set_id, pool.family)
            if half is not None and half.use(in_use=present):
                self._tell_form(set_id, pool.family)

    def _on_set(self, set_id: str, set_type: IPSetType | None) -> None:
        if self._types.get(set_id) is set_type:
            return
        if self._types.pop(set_id, None) is not None:
            for family in self._families:
                self._remove(set_id, family)
        if set_type is not None:
            self._types[set_id] = set_type
            for family in self._families:
                self._add(set_id, family, set_type)

    def _add(self, set_id: str, family: int, set_type: IPSetType) -> None:
        in_use = bool(self._pools[family])
        key = (set_id, family)
        if set_type is IPSetType.NET:
            self._net_sets[key] = _NetSet(self._table, set_id, family, in_use=in_use)
        else:
            self._port_sets[key] = _PortSet(self._table, set_id, family, in_use=in_use)
        self._tell_form(set_id, family)

    def _remove(self, set_id: str, family: int) -> None:
        half = self._half(set_id, family)
        if half is not None:
            half.remove()
            self._net_sets.pop((set_id, family), None)
            self._port_sets.pop((set_id, family), None)
            self._tell_form(set_id, family)


class _Half(Generic[Member]):
    """One family's half of a set. Whether it is in the kernel, and as what, depends on its
    members and `in_use` alone."""

    def __init__(self, table: TableState, set_id: str, family: int, *, in_use: bool) -> None:
        self._table = table
        self._set_id = set_id
        self._family = family
        self._members: dict[Member, None] = {}
        self._in_use = in_use
        self._form = Form.ABSENT
        self._name = ""
        self._settle()

    @property
    def form(self) -> Form:
        return self._form

    @property
    def name(self) -> str:
        """The kernel's, as it is now; empty while it is absent."""
        return self._name

    def contains(self, member: Member) -> bool:
        return member in self._members

    def use(self, *, in_use: bool) -> bool:
        """There are pools of the family, or none any more; returns whether the form changed."""
        self._in_use = in_use
        return self._settle()

    def change(self, member: Member, *, present: bool) -> bool:
        """Add or remove; returns whether it has taken another form by that."""
        if present is (member in self._members):
            return False
        if present:
            self._members[member] = None
        else:
            del self._members[member]
        if self._counts(member, present=present) and self._settle():
            return True
        self._write(member, present=present)
        return False

    def remove(self) -> None:
        if self._name:
            self._table.want_set(self._name, None)

    def _settle(self) -> bool:
        form = self._full_form() if self._members or self._in_use else Form.ABSENT
        if form is self._form:
            return False
        self.remove()
        self._form = form
        self._name = ""
        if form is not Form.ABSENT:
            made = self._make()
            self._name = made.name
            self._table.want_set(self._name, made)
            for member in self._members:
                self._write(member, present=True)
        return True

    def _full_form(self) -> Form:
        """Where it is not absent."""
        return Form.ADDRESSES

    def _counts(self, member: Member, *, present: bool) -> bool:
        """A member has come or gone; returns whether the form may change by that."""
        return not self._in_use

    def _make(self) -> Set:
        """The kernel's set for the present form, empty."""
        raise NotImplementedError

    def _write(self, member: Member, *, present: bool) -> None:
        raise NotImplementedError


class _PortSet(_Half[AddressPort]):
    """Of an `ADDRESS_PORT` set."""

    def _make(self) -> Set:
        key = (ADDRESS_TYPE[self._family], INET_PROTO, INET_SERVICE)
        return Set(names.port_set(self._set_id, self._family), key)

    def _write(self, member: AddressPort, *, present: bool) -> None:
        key = _address_port_key(member)
        self._table.want_element(self._name, key, NO_DATA if present else None)


class _NetSet(_Half[Network]):
    """Of a `NET` set: a hash, or intervals."""

    def __init__(self, table: TableState, set_id: str, family: int, *, in_use: bool) -> None:
        self._wide_count = 0
        """Members that are more than an address."""
        self._cover: Cover | None = None
        """While there are such."""
        super().__init__(table, set_id, family, in_use=in_use)

    def contains(self, member: Network) -> bool:
        return member in self._members or (self._cover is not None and self._cover.contains(member))

    def _full_form(self) -> Form:
        return Form.NETWORKS if self._wide_count else Form.ADDRESSES

    def _counts(self, member: Network, *, present: bool) -> bool:
        if member.is_address:
            return not self._in_use
        self._wide_count += 1 if present else -1
        return True

    def _make(self) -> Set:
        wide = self._form is Form.NETWORKS
        self._cover = Cover() if wide else None
        make = interval_set if wide else address_set
        return make(names.net_set(self._set_id, self._family, wide=wide), self._family)

    def _write(self, member: Network, *, present: bool) -> None:
        if self._cover is None:
            self._table.want_element(self._name, member.packed, NO_DATA if present else None)
            return
        change = self._cover.add(member) if present else self._cover.remove(member)
        self._want(change.removed, None)
        self._want(change.added, NO_DATA)

    def _want(self, networks: Iterable[Network], data: bytes | None) -> None:
        for network in networks:
            self._table.want_element(self._name, network_key(network), data)


def _address_port_key(member: AddressPort) -> bytes:
    return keys.concatenate(
        member.address.packed, keys.protocol(member.protocol), keys.port(member.port)
    )
