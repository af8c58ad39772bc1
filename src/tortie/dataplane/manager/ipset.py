"""IP sets of desired state to sets of nftables: one for each family."""

from collections.abc import Hashable
from typing import cast

from tortie.dataplane.driver.cover import Change, Cover
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules import names
from tortie.dataplane.rules.content import ADDRESS_TYPE, NO_DATA, net_set, network_key
from tortie.dataplane.settings import Settings
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, IPSetType
from tortie.kernel.nft import keys
from tortie.kernel.nft.objects import INET_PROTO, INET_SERVICE, Set
from tortie.lib.ip import Network


class IPSetManager:
    """Members may come in any order and number; overlapping networks are fine."""

    def __init__(self, table: TableState, settings: Settings) -> None:
        self._table = table
        self._families = (4, 6) if settings.ipv6 else (4,)
        self._types: dict[str, IPSetType] = {}
        self._covers: dict[str, Cover] = {}
        """By name of the kernel's set, for `NET` sets."""

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`IP_SET` and `IP_SET_MEMBER`."""
        if kind is Kind.IP_SET:
            self._on_set(cast(str, name), cast("IPSetType | None", value))
        else:
            set_id, member = cast("tuple[str, Network | AddressPort]", name)
            self._on_member(set_id, member, present=value is not None)

    def _on_set(self, set_id: str, set_type: IPSetType | None) -> None:
        old = self._types.get(set_id)
        if old is set_type:
            return
        if old is not None:
            del self._types[set_id]
            for family in self._families:
                name = _set_name(set_id, old, family)
                self._table.want_set(name, None)
                self._covers.pop(name, None)
        if set_type is not None:
            self._types[set_id] = set_type
            for family in self._families:
                name = _set_name(set_id, set_type, family)
                self._table.want_set(name, _kernel_set(name, set_type, family))
                if set_type is IPSetType.NET:
                    self._covers[name] = Cover()

    def _on_member(self, set_id: str, member: Network | AddressPort, *, present: bool) -> None:
        set_type = self._types.get(set_id)
        if set_type is None:
            assert not present, "a set is announced before its members"
            return
        address = member.address if isinstance(member, AddressPort) else member
        if address.family not in self._families:
            return
        name = _set_name(set_id, set_type, address.family)
        if isinstance(member, AddressPort):
            key = _address_port_key(member)
            self._table.want_element(name, key, NO_DATA if present else None)
            return
        cover = self._covers[name]
        self._write(name, cover.add(member) if present else cover.remove(member))

    def _write(self, name: str, change: Change) -> None:
        for network in change.removed:
            self._table.want_element(name, network_key(network), None)
        for network in change.added:
            self._table.want_element(name, network_key(network), NO_DATA)


def _set_name(set_id: str, set_type: IPSetType, family: int) -> str:
    if set_type is IPSetType.NET:
        return names.net_set(set_id, family)
    return names.port_set(set_id, family)


def _kernel_set(name: str, set_type: IPSetType, family: int) -> Set:
    if set_type is IPSetType.NET:
        return net_set(name, family)
    return Set(name, (ADDRESS_TYPE[family], INET_PROTO, INET_SERVICE))


def _address_port_key(member: AddressPort) -> bytes:
    return keys.concatenate(
        member.address.packed, keys.protocol(member.protocol), keys.port(member.port)
    )
