"""IP sets of desired state to sets of nftables: one for each family.

A `NET` set whose members are addresses, as of nearly every selector, is a hash.
With its first member of more than one address it becomes an interval set: five
times slower to load and slower to look up, but the only one that can hold it.
The kernel cannot turn one into the other, so that is another set, and the rules
that name it are written anew, in the same transaction. Which one it is depends
on the members alone, never on what they were before.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import cast

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
from tortie.dataplane.settings import Settings
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, IPSetType
from tortie.kernel.nft import keys
from tortie.kernel.nft.objects import INET_PROTO, INET_SERVICE, Set
from tortie.lib.ip import Network


class IPSetManager:
    """Members may come in any order and number; overlapping networks are fine."""

    def __init__(self, table: TableState, policies: PolicyManager, settings: Settings) -> None:
        self._table = table
        self._policies = policies
        self._families = (4, 6) if settings.ipv6 else (4,)
        self._types: dict[str, IPSetType] = {}
        self._net_sets: dict[tuple[str, int], _NetSet] = {}
        """By set id and family."""
        self._port_sets: dict[tuple[str, int], str] = {}
        """Names of kernel sets, by set id and family."""
        self._closed: set[str] = set()
        """Those that the kernel refused: they are not written (see `manager.refusal`)."""

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`IP_SET` and `IP_SET_MEMBER`."""
        if kind is Kind.IP_SET:
            self._on_set(cast(str, name), cast("IPSetType | None", value))
            return
        set_id, member = cast("tuple[str, Network | AddressPort]", name)
        if isinstance(member, AddressPort):
            port_set = self._port_sets.get((set_id, member.address.family))
            if port_set is not None:
                data = None if value is None else NO_DATA
                self._table.want_element(port_set, _address_port_key(member), data)
                self._policies.on_member(set_id, added=value is not None)
            return
        net_set = self._net_sets.get((set_id, member.family))
        if net_set is None:
            return
        if net_set.change(member, present=value is not None):
            self._policies.on_width(set_id, member.family, wide=net_set.wide)
            if set_id in self._closed:
                self._table.withhold(net_set.name, withheld=True)
        self._policies.on_member(set_id, added=value is not None)

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        """Whether the address, or address and port, is in the set."""
        if isinstance(member, AddressPort):
            name = self._port_sets.get((set_id, member.address.family))
            return name is not None and self._table.wants_element(name, _address_port_key(member))
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
        port_set = self._port_sets.get((set_id, family))
        if port_set is not None:
            yield port_set
        net_set = self._net_sets.get((set_id, family))
        if net_set is not None:
            yield net_set.name

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
        if set_type is IPSetType.NET:
            self._net_sets[set_id, family] = _NetSet(self._table, set_id, family)
            return
        name = self._port_sets[set_id, family] = names.port_set(set_id, family)
        key = (ADDRESS_TYPE[family], INET_PROTO, INET_SERVICE)
        self._table.want_set(name, Set(name, key))

    def _remove(self, set_id: str, family: int) -> None:
        port_set = self._port_sets.pop((set_id, family), None)
        if port_set is not None:
            self._table.want_set(port_set, None)
        net_set = self._net_sets.pop((set_id, family), None)
        if net_set is not None:
            net_set.remove()
            if net_set.wide:
                self._policies.on_width(set_id, family, wide=False)


class _NetSet:
    """One family's half of a `NET` set, as a hash or as intervals."""

    def __init__(self, table: TableState, set_id: str, family: int) -> None:
        self._table = table
        self._set_id = set_id
        self._family = family
        self._members: dict[Network, None] = {}
        self._wide_count = 0
        """Members that are more than an address."""
        self._cover: Cover | None = None
        """While there are such."""
        self._name = ""
        self._create()

    @property
    def name(self) -> str:
        """The kernel's, as it is now."""
        return self._name

    @property
    def wide(self) -> bool:
        return self._cover is not None

    def change(self, member: Network, *, present: bool) -> bool:
        """Add or remove; returns whether it has become another set by that."""
        if present is (member in self._members):
            return False
        if present:
            self._members[member] = None
        else:
            del self._members[member]
        if not member.is_address:
            self._wide_count += 1 if present else -1
            if bool(self._wide_count) is not self.wide:
                self._table.want_set(self._name, None)
                self._create()
                return True
        self._write(member, present=present)
        return False

    def contains(self, address: Network) -> bool:
        return address in self._members or (
            self._cover is not None and self._cover.contains(address)
        )

    def remove(self) -> None:
        self._table.want_set(self._name, None)

    def _create(self) -> None:
        wide = self._wide_count > 0
        self._cover = Cover() if wide else None
        self._name = names.net_set(self._set_id, self._family, wide=wide)
        make = interval_set if wide else address_set
        self._table.want_set(self._name, make(self._name, self._family))
        for member in self._members:
            self._write(member, present=True)

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
