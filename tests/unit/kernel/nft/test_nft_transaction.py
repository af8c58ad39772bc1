"""A transaction prints as the nft script that does the same, in an order that resolves."""

from tortie.kernel.nft import keys, userdata
from tortie.kernel.nft.constants import Family, Hook, MetaKey, Policy, TableFlag
from tortie.kernel.nft.expressions import ACCEPT, VERDICT_REGISTER, Lookup, Meta, goto, jump
from tortie.kernel.nft.objects import (
    IFNAME,
    IPV4_ADDR,
    MARK,
    VERDICT,
    Base,
    Chain,
    Element,
    Rule,
    Set,
    Table,
    TableName,
    network_elements,
)
from tortie.kernel.nft.operations import AddElements
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.ip import parse_network

TABLE = TableName(Family.INET, "t")
IDS = Set("ids", (IFNAME,), (MARK, MARK))
LISTS = Set("lists", (MARK,), (VERDICT,))
CIDRS = Set("cidrs", (IPV4_ADDR,), interval=True)


def test_whatever_the_order_of_calls_references_resolve() -> None:
    change = Transaction()
    change.delete_table(TableName(Family.ARP, "old"))
    change.delete_set(TABLE, "s-old")
    change.delete_chain(TABLE, "c-old")
    change.add_elements(TABLE, IDS, [Element(keys.ifname("cali1"), bytes(4) + keys.u32(7))])
    change.add_elements(TABLE, LISTS, [Element(keys.u32(7), goto("list"))])
    change.delete_elements(TABLE, IDS, [Element(keys.ifname("cali1"))])
    change.add_rule(TABLE, Rule("list", (jump("policy"),), userdata.pack_rule(comment="why")))
    change.insert_rule(TABLE, Rule("list", (ACCEPT,)))
    change.insert_rule(TABLE, Rule("list", (ACCEPT,)), before=9)
    change.replace_rule(TABLE, 12, Rule("list", (ACCEPT,)))
    change.delete_rule(TABLE, "list", 11)
    change.flush_chain(TABLE, "policy")
    dispatch = (
        Meta(MetaKey.IIFNAME, 1),
        Lookup("ids", 1, 0),
        Lookup("lists", 1, VERDICT_REGISTER),
    )
    change.add_rule(TABLE, Rule("forward", dispatch))
    change.add_elements(TABLE, CIDRS, network_elements(parse_network("10.0.0.0/8")))
    change.add_chain(TABLE, Chain("forward", Base("filter", Hook.FORWARD, -1, Policy.DROP)))
    change.add_chain(TABLE, Chain("list"))
    change.add_set(TABLE, CIDRS)
    change.add_set(TABLE, LISTS)
    change.flush_set(TABLE, "cidrs")
    change.add_table(Table(*TABLE, TableFlag.OWNER | TableFlag.PERSIST))
    assert (
        str(change)
        == """\
add table inet t { flags owner, persist ; }
add set inet t cidrs { type ipv4_addr ; flags interval ; }
add map inet t lists { type mark : verdict ; }
flush set inet t s-old
flush set inet t cidrs
delete element inet t ids { "cali1" }
add chain inet t forward { type filter hook forward priority -1 ; policy drop ; }
add chain inet t list
add element inet t cidrs { 10.0.0.0-10.255.255.255 }
flush chain inet t c-old
flush chain inet t policy
add rule inet t list jump policy comment "why"
insert rule inet t list accept
insert rule inet t list handle 9 accept
replace rule inet t list handle 12 accept
add rule inet t forward iifname map @ids vmap @lists
delete rule inet t list handle 11
add element inet t lists { 0x00000007 : goto list }
add element inet t ids { "cali1" : 0x00000000 . 0x00000007 }
delete chain inet t c-old
delete set inet t s-old
delete table arp old
"""
    )


def test_elements_of_one_set_are_one_operation() -> None:
    change = Transaction()
    for n in range(3):
        change.add_elements(TABLE, IDS, [Element(bytes(15) + bytes((n,)), bytes(4) + keys.u32(n))])
    (operation,) = change.operations()
    assert isinstance(operation, AddElements)
    assert len(operation.elements) == 3
    assert list(change.operations()) == [operation]  # reading does not use it up


def test_nothing_asked_is_nothing_to_do() -> None:
    change = Transaction()
    change.add_elements(TABLE, IDS, [])
    assert not change
    assert list(change.operations()) == []
    change.add_elements(TABLE, IDS, [Element(bytes(16), bytes(4) + keys.u32(1))])
    change.add_elements(TABLE, IDS, [])
    assert change
    assert len(list(change.operations())) == 1


def test_a_long_list_of_elements_is_cut_for_people() -> None:
    change = Transaction()
    change.add_elements(
        TABLE, Set("s", (IPV4_ADDR,)), [Element(bytes(3) + bytes((n,))) for n in range(60)]
    )
    assert str(change).endswith("0.0.0.48, 0.0.0.49, … 60 in all }\n")
