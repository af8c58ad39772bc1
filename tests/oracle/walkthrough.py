"""Two blocks of docs/design/nftables.md: the way of one packet, and the ruleset that it walks.

`python -m tests.oracle.walkthrough` writes them; a test says when they are stale.
"""

import asyncio
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.graph.resources import Entry, State, node, policy, pool, profile, tier, workload
from tests.oracle.clusters import HOSTS, TCP
from tests.oracle.paper import PaperHosts, without_sysctls

from tortie.dataplane.driver.nftables import INET
from tortie.explain.oracle import Packet
from tortie.kernel.nft import script
from tortie.kernel.nft.connection import Backend
from tortie.kernel.nft.objects import Rule
from tortie.lib.ip import parse_address
from tortie.model.policy import EntityRule
from tortie.model.policy import Rule as PolicyRule

DOCUMENT = Path(__file__).parents[2] / "docs" / "design" / "nftables.md"
BLOCK = "<!-- {name}: written by tests/oracle/walkthrough.py -->\n```\n{text}```\n"

PACKET = Packet(parse_address("10.65.0.1"), parse_address("10.65.0.2"), TCP, 40000, 80)


def world() -> State:
    """A client, a server, and one policy that lets the one speak to the other's port 80."""
    rule = PolicyRule(
        action="Allow",
        protocol="TCP",
        source=EntityRule(selector="role == 'client'"),
        destination=EntityRule(ports=(80,)),
    )
    (first, *_), (second, *_) = HOSTS.values()
    return dict(
        (
            node("h1", f"{first}/24"),
            node("h2", f"{second}/24"),
            pool("four", "10.65.0.0/24", nat_outgoing=True),
            tier("default", 1000000.0),
            profile("open", {}, (PolicyRule(action="Allow"),), (PolicyRule(action="Allow"),)),
            _workload("client", "10.65.0.1", "cali1"),
            _workload("server", "10.65.0.2", "cali2"),
            policy("red/http", selector="role == 'server'", types=("Ingress",), ingress=(rule,)),
        )
    )


def _workload(role: str, address: str, interface: str) -> Entry:
    path, labels = f"red/{role}", {"role": role}
    return workload(path, "h1", address, labels=labels, profiles=("open",), interface=interface)


def blocks() -> dict[str, str]:
    """By name, as they should be in the document."""
    hosts = PaperHosts()
    hosts.enforce(world())
    where, walked = hosts.walk(PACKET)
    assert not where, f"the packet ends at {where}"
    way = "\n".join(walked) + "\n"
    return {"way": way, "ruleset": asyncio.run(_listing(hosts.hosts["h1"].nft))}


async def _listing(nft: Backend) -> str:
    """The table as nft writes it; sets in the order of their names, elements in theirs."""
    chains, rules = await nft.chains(INET), await nft.rules(INET)
    lines = [f"table {INET} {{"]
    for of in sorted(await nft.sets(INET), key=lambda one: one.name):
        kind = "map" if of.is_map else "set"
        lines.append(f"    {kind} {of.name} {script.set_definition(of)}")
        elements = sorted(await nft.elements(INET, of.name), key=lambda one: one.key)
        if elements:
            lines.append(f"        = {script.elements_text(of, elements)}")
    # Those named by hashes come in no order of their own.
    chains.sort(key=lambda one: one.name if re.fullmatch("[pl][ie]-.{24}", one.name) else "")
    for chain in chains:
        base = script.base_chain(INET.family, chain.base).strip() if chain.base else ""
        lines += ["", f"    chain {chain.name} {base}".rstrip()]
        lines += [
            f"        {number} {_text(rule)}"
            for number, rule in enumerate((one for one in rules if one.chain == chain.name), 1)
        ]
    return "\n".join((*lines, "}")) + "\n"


def _text(rule: Rule) -> str:
    return re.sub(r" packets \d+ bytes \d+", "", script.rule_text(rule))


def in_document(text: str, name: str) -> str:
    """What stands there now."""
    found = re.search(_pattern(name), text, re.DOTALL)
    assert found, f"{DOCUMENT} has no block {name}"
    return found[1]


def written(text: str) -> str:
    """The document with the blocks as they should be."""
    for name, block in blocks().items():
        whole = BLOCK.format(name=name, text=block)
        found = re.search(_pattern(name), text, re.DOTALL)
        assert found, f"{DOCUMENT} has no block {name}"
        text = text[: found.start()] + whole + text[found.end() :]
    return text


def _pattern(name: str) -> str:
    head = re.escape(BLOCK.format(name=name, text="").removesuffix("```\n"))
    return f"{head}(.*?)```\n"


if __name__ == "__main__":
    with TemporaryDirectory() as empty, pytest.MonkeyPatch.context() as patcher:
        without_sysctls(patcher, Path(empty))
        DOCUMENT.write_text(written(DOCUMENT.read_text()))
