"""The dataplane with the kernel: a cold start, a restart, and single changes, beside `nft -f` and
`iptables-restore` doing the same.

"Processor" is what the process took of it, its time in the kernel included: on a busy machine that
says more. Nothing but tables is programmed: the endpoints' links do not exist. What `nft -f` loads
is the same policy as people write it, ports in the rules, endpoints in a map of verdicts;
`iptables-restore` (the old one, as Calico's first dataplane) loads the same chains with a network
for each set, since its sets are another program's, and a rule for each endpoint. Ratios are of
medians in one run: theirs to ours.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Hashable, Iterator

from msgspec.structs import replace

from benchmarks.results import Result, latencies
from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId, Pool
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    TCP,
    IPSetType,
    Policy,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
    TierPolicies,
)
from tortie.kernel import netns
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib import memory
from tortie.lib.ip import Network, parse_network

ENDPOINTS, POLICIES, MEMBERS = 5000, 1000, 100
RULES = 5
LISTS = (50, 1000)
CHANGES = 40
NFT_CHANGES = 5

_POOL = parse_network("10.66.0.0/15")
_PROFILE = PolicyId("Profile", "bench")
_OPEN = PolicyList(profiles=(_PROFILE,))

Update = tuple[Kind, Hashable, object]


def run() -> Iterator[Result]:
    for lists in LISTS:
        found: dict[str, float] = {}
        for measure in (_ours, _nft, _iptables):
            results = _apart(measure, lists)
            found |= {one.name: one.value for one in results}
            yield from results
        yield from _ratios(found, lists)


def _apart(measure: "Callable[[int], list[Result]]", lists: int) -> list[Result]:
    """In a namespace of its own."""
    namespace = netns.create_anonymous()
    try:
        return netns.run_in(namespace, lambda: measure(lists))
    finally:
        os.close(namespace)


def _ratios(found: dict[str, float], lists: int) -> Iterator[Result]:
    size = _size(lists)
    for tool in ("nft -f", "iptables-restore"):
        for what, tail in (
            ("cold start", ""),
            ("a member", ", p50"),
            ("a policy's shape", ", p50"),
        ):
            theirs = found.get(f"{what} by {tool}, {size}{tail}")
            if theirs is not None:
                ratio = theirs / found[f"{what}, {size}{tail}"]
                yield Result(f"{what} by {tool} to ours, {size}", ratio, "×")


def _ours(lists: int) -> list[Result]:
    nft, rtnl, conntrack = Nft.open(), Rtnl.open(), Conntrack.open()
    settings = Settings(host="bench", log_denied=True)  # as an agent's are
    dataplane = Dataplane(settings, nft, rtnl, conntrack)
    world = list(_world(lists))
    memory.begin_loading()  # as the agent does
    loop = asyncio.new_event_loop()
    began, began_cpu = time.perf_counter(), time.process_time()
    for update in world:
        dataplane.on_update(*update)
    loop.run_until_complete(dataplane.apply())
    took, took_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    found = [
        Result(f"cold start, {_size(lists)}", took, "s", "≤ 2.5"),
        Result(f"cold start, {_size(lists)}, processor", took_cpu, "s"),
    ]
    found += _restart(nft, rtnl, conntrack, world, lists)
    memory.settle()

    def timed(name: str, target: str, change: Callable[[int], Update]) -> None:
        seconds, processor = [], []
        for number in range(CHANGES):
            update = change(number)
            began, began_cpu = time.perf_counter(), time.process_time()
            dataplane.on_update(*update)
            loop.run_until_complete(dataplane.apply())
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - began_cpu)
        name = f"{name}, {_size(lists)}"
        found.extend(latencies(name, seconds, target))
        found.extend(latencies(f"{name}, processor", processor)[:1])

    elements, shape = "≤ 0.5 in the kernel", "≤ 5 in the kernel"
    timed("a member", elements, lambda n: (Kind.IP_SET_MEMBER, ("set-500", _address(n)), True))
    timed("an endpoint", elements, lambda n: _endpoint(ENDPOINTS + n, lists))
    timed("the ports of five rules", elements, lambda n: _policy(500, 9000 + 10 * n))
    timed("a policy's shape", shape, lambda n: _policy(500, denying=n % 2 == 0))
    timed("another list", shape, lambda n: _relisted(n, lists))
    loop.close()
    nft.close()
    rtnl.close()
    conntrack.close()
    return found


def _restart(
    nft: Nft, rtnl: Rtnl, conntrack: Conntrack, world: list[Update], lists: int
) -> list[Result]:
    """A dataplane that knows nothing meets tables that are as they should be."""
    before = asyncio.run(nft.generation())
    began, began_cpu = time.perf_counter(), time.process_time()
    settings = Settings(host="bench", log_denied=True)  # as an agent's are
    dataplane = Dataplane(settings, nft, rtnl, conntrack)
    for update in world:
        dataplane.on_update(*update)
    asyncio.run(dataplane.apply())
    took, took_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    assert asyncio.run(nft.generation()) == before, "nothing was written, so no packet noticed"
    return [
        Result(f"restart with all present, {_size(lists)}", took, "s", "≤ 1"),
        Result(f"restart with all present, {_size(lists)}, processor", took_cpu, "s", "≤ 1"),
    ]


def _nft(lists: int) -> list[Result]:
    began = time.perf_counter()
    _load(_script(lists))
    found = [Result(f"cold start by nft -f, {_size(lists)}", time.perf_counter() - began, "s")]

    def timed(name: str, script: Callable[[int], str]) -> None:
        seconds = []
        for number in range(NFT_CHANGES):
            text = script(number)
            began = time.perf_counter()
            _load(text)
            seconds.append(time.perf_counter() - began)
        found.append(latencies(f"{name} by nft -f, {_size(lists)}", seconds)[0])

    timed("a member", lambda n: f"add element inet t set-500 {{ {_address(n).address_text} }}")
    timed(
        "a policy's shape",
        lambda n: "flush chain inet t p500\n" + "\n".join(_nft_rules(500, denying=n % 2 == 0)),
    )
    return found


def _iptables(lists: int) -> list[Result]:
    script = "\n".join(_iptables_lines(lists))
    began = time.perf_counter()
    _restore(script)
    name = f"cold start by iptables-restore, {_size(lists)}"
    found = [Result(name, time.perf_counter() - began, "s")]
    seconds = []
    for number in range(NFT_CHANGES):
        rules = "\n".join(_iptables_rules(500, denying=number % 2 == 0))
        began = time.perf_counter()
        _restore(f"*filter\n:p500 - [0:0]\n{rules}\nCOMMIT\n")
        seconds.append(time.perf_counter() - began)
    found += latencies(f"a policy's shape by iptables-restore, {_size(lists)}", seconds)[:1]
    return found


def _size(lists: int) -> str:
    return f"{ENDPOINTS:,} endpoints in {lists:,} lists"


def _world(lists: int) -> Iterator[Update]:
    yield Kind.POOL, _POOL, Pool(masquerade=True)
    for number in range(POLICIES):
        yield Kind.IP_SET, f"set-{number}", IPSetType.NET
        for address in _members(number):
            yield Kind.IP_SET_MEMBER, (f"set-{number}", address), True
    for number in range(POLICIES):
        yield _policy(number)
    allow = (Rule("Allow"),)
    yield Kind.POLICY, _PROFILE, Policy(allow, allow)
    for number in range(ENDPOINTS):
        yield _endpoint(number, lists)


def _members(number: int) -> list[Network]:
    places = ((number * 97 + member * 13) % 100_000 for member in range(MEMBERS))
    return [Network(4, _POOL.value + 1 + place, 32) for place in places]


def _address(number: int) -> Network:
    """One that nobody has yet."""
    return Network(4, _POOL.value + 110_000 + number, 32)


def _policy_id(number: int) -> PolicyId:
    return PolicyId("NetworkPolicy", f"policy-{number % POLICIES}", "bench")


def _policy(number: int, first_port: int = 8000, *, denying: bool = False) -> Update:
    """
    Args:
        denying: the last rule denies: of another shape than if it allowed.
    """
    made = tuple(
        Rule(
            "Deny" if denying and step == RULES - 1 else "Allow",
            protocol=TCP,
            source=Side(sets=(f"set-{(number + step) % POLICIES}",)),
            destination=Side(ports=(PortRange(first_port + step, first_port + step),)),
        )
        for step in range(RULES)
    )
    return Kind.POLICY, _policy_id(number), Policy(ingress=made, tier="default")


def _of_list(number: int, lists: int) -> list[int]:
    """The policies of one list: together the lists name them all."""
    each = POLICIES // lists
    return [number % lists * each + step for step in range(each)]


def _endpoint(number: int, lists: int) -> Update:
    policies = tuple(_policy_id(one) for one in _of_list(number, lists))
    value = Endpoint(
        f"cali{number:08x}",
        (Network(4, _POOL.value + 1 + number, 32),),
        ingress=PolicyList((TierPolicies("default", "Deny", policies),)),
        egress=_OPEN,
    )
    return Kind.ENDPOINT, EndpointId("bench", f"w{number}"), value


def _relisted(number: int, lists: int) -> Update:
    """The first endpoint, with a list of its own at each second call."""
    kind, name, value = _endpoint(0, lists)
    assert isinstance(value, Endpoint)
    own = (_policy_id(number), _policy_id(number + 1))
    if number % 2 == 0:
        value = replace(value, ingress=PolicyList((TierPolicies("default", "Deny", own),)))
    return kind, name, value


# The same as text.


def _script(lists: int) -> str:
    return "\n".join(_lines(lists))


def _lines(lists: int) -> Iterator[str]:
    yield "add table inet t"
    yield "add map inet t endpoints { type ifname : verdict ; }"
    for number in range(POLICIES):
        yield f"add set inet t set-{number} {{ type ipv4_addr ; }}"
        members = ", ".join(one.address_text for one in _members(number))
        yield f"add element inet t set-{number} {{ {members} }}"
    for number in range(POLICIES):
        yield f"add chain inet t p{number}"
        yield from _nft_rules(number)
    for number in range(lists):
        yield f"add chain inet t l{number}"
        yield from (f"add rule inet t l{number} jump p{one}" for one in _of_list(number, lists))
        yield f"add rule inet t l{number} counter drop"
    yield "add chain inet t to { type filter hook forward priority 0 ; }"
    yield "add rule inet t to ct state established accept"
    yield "add rule inet t to oifname vmap @endpoints"
    elements = (f'"cali{number:08x}" : goto l{number % lists}' for number in range(ENDPOINTS))
    yield f"add element inet t endpoints {{ {', '.join(elements)} }}"


def _nft_rules(number: int, *, denying: bool = False) -> Iterator[str]:
    for step in range(RULES):
        source = f"ip saddr @set-{(number + step) % POLICIES}"
        port = f"tcp dport {8000 + step}"
        action = "drop" if denying and step == RULES - 1 else "accept"
        yield f"add rule inet t p{number} {source} {port} counter {action}"


def _iptables_lines(lists: int) -> Iterator[str]:
    yield "*filter"
    yield from (f":p{number} - [0:0]" for number in range(POLICIES))
    yield from (f":l{number} - [0:0]" for number in range(lists))
    yield "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"
    for number in range(ENDPOINTS):
        yield f"-A FORWARD -o cali{number:08x} -g l{number % lists}"
    for number in range(POLICIES):
        yield from _iptables_rules(number)
    for number in range(lists):
        yield from (f"-A l{number} -j p{one}" for one in _of_list(number, lists))
        yield f"-A l{number} -j DROP"
    yield "COMMIT\n"


def _iptables_rules(number: int, *, denying: bool = False) -> Iterator[str]:
    for step in range(RULES):
        source = f"10.66.{(number + step) % POLICIES % 256}.0/24"
        action = "DROP" if denying and step == RULES - 1 else "ACCEPT"
        yield f"-A p{number} -s {source} -p tcp --dport {8000 + step} -j {action}"


def _restore(script: str) -> None:
    command = ["iptables-legacy-restore", "--noflush"]
    subprocess.run(command, input=script.encode(), check=True)


def _load(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script.encode(), check=True)
