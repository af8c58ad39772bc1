"""Rules of BGPPeer and BGPFilter.

Source: Calico, api/pkg/apis/projectcalico/v3/bgppeer.go and bgpfilter.go, and the rules in
their resource schemas.
"""

import re
from collections.abc import Iterator, Sequence

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parsed_network
from tortie.model.bgp_filter import BGPFilter, FilterRule, Operation
from tortie.model.bgp_peer import BGPPeer, BGPPeerSpec
from tortie.model.validation import terms
from tortie.model.validation.settings import is_community
from tortie.model.validation.terms import Problem

AS_NUMBER_MAX = 2**32 - 1
PRIORITY = (1, 2147483646)
HOPS_MAX = 255
OPERATIONS_MAX = 10
PREPENDED_MAX = 10
CIDR_MAX_CHARACTERS = {4: 18, 6: 43}

_INTERFACE = re.compile(r"[a-zA-Z0-9_.*?-]{1,15}")
"""A name, or a pattern of one: `*` and `?` as in a shell."""

_COMMUNITY_RULE = "must be aa:nn with 16 bits each, or aa:nn:mm with 32 bits each"


def is_interface_pattern(text: str) -> bool:
    return _INTERFACE.fullmatch(text) is not None


def parse_peer_ip(text: str) -> tuple[Network, int]:
    """`10.0.0.1`, `10.0.0.1:1179`, `fd00::1`, `[fd00::1]:1179` as address and port.

    Returns:
        The port is 0 where none is given.

    Raises:
        InvalidInput: it is none of these.
    """
    address, port = text, ""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]:")
        if not bracket:
            raise InvalidInput(f"{text!r} must be [address]:port")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    parsed = parse_address(address)
    if "/" in address:
        raise InvalidInput(f"{text!r} is not an address")
    if address is text:
        return parsed, 0
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise InvalidInput(f"{text!r} has no valid port")
    return parsed, int(port)


def peer_problems(resource: BGPPeer) -> Iterator[Problem]:
    spec = resource.spec
    yield from _whom_problems(spec)
    for name, text in (
        ("nodeSelector", spec.node_selector),
        ("peerSelector", spec.peer_selector),
        ("localWorkloadSelector", spec.local_workload_selector),
    ):
        yield from terms.selector_problems(f"spec.{name}", text)
    for name, number, most in (
        ("asNumber", spec.as_number, AS_NUMBER_MAX),
        ("localASNumber", spec.local_as_number, AS_NUMBER_MAX),
        ("numAllowedLocalASNumbers", spec.num_allowed_local_as_numbers, 2**31 - 1),
        ("ttlSecurity", spec.ttl_security, HOPS_MAX),
    ):
        yield from terms.range_problems(f"spec.{name}", number, 0, most)
    for name, choice, choices in (
        ("nextHopMode", spec.next_hop_mode, ("Auto", "Self", "Keep")),
        ("sourceAddress", spec.source_address or None, ("UseNodeIP", "None")),
        ("reversePeering", spec.reverse_peering, ("Auto", "Manual")),
    ):
        yield from terms.choice_problems(f"spec.{name}", choice, choices)
    yield from terms.duration_problems("spec.maxRestartTime", spec.max_restart_time)
    yield from terms.duration_problems("spec.keepaliveTime", spec.keepalive_time)
    if spec.keep_original_next_hop and spec.next_hop_mode is not None:
        yield Problem("spec.keepOriginalNextHop", True, "cannot go with nextHopMode")
    secret = spec.password.secret_key_ref if spec.password else None
    if spec.password is not None and (secret is None or not secret.key):
        yield Problem("spec.password.secretKeyRef.key", "", "is needed")


def _whom_problems(spec: BGPPeerSpec) -> Iterator[Problem]:
    if spec.node and spec.node_selector:
        yield Problem("spec.nodeSelector", spec.node_selector, "cannot go with node")
    if spec.peer_ip and spec.peer_selector:
        yield Problem("spec.peerSelector", spec.peer_selector, "cannot go with peerIP")
    if spec.peer_selector and spec.as_number:
        yield Problem("spec.asNumber", spec.as_number, "cannot go with peerSelector")
    if spec.local_workload_selector:
        rule = "cannot go with localWorkloadSelector"
        yield from terms.forbidden("spec.peerIP", spec.peer_ip, rule)
        yield from terms.forbidden("spec.peerSelector", spec.peer_selector, rule)
        if not spec.as_number:
            yield Problem("spec.asNumber", spec.as_number, "is needed with localWorkloadSelector")
    yield from _address_problems(spec)


def _address_problems(spec: BGPPeerSpec) -> Iterator[Problem]:
    family = None
    if spec.peer_ip:
        try:
            family = parse_peer_ip(spec.peer_ip)[0].family
        except InvalidInput:
            rule = "must be an IP address, with a port as in 10.0.0.1:179 or [fd00::1]:179"
            yield Problem("spec.peerIP", spec.peer_ip, rule)
    if spec.reachable_by:
        yield from terms.address_problems("spec.reachableBy", spec.reachable_by, family)
        if not spec.peer_ip:
            yield Problem("spec.reachableBy", spec.reachable_by, "needs peerIP")


def filter_problems(resource: BGPFilter, *, strict: bool) -> Iterator[Problem]:
    spec = resource.spec
    for name, family, rules in (
        ("exportV4", 4, spec.export_v4),
        ("importV4", 4, spec.import_v4),
        ("exportV6", 6, spec.export_v6),
        ("importV6", 6, spec.import_v6),
    ):
        for index, rule in enumerate(rules):
            yield from _rule_problems(f"spec.{name}[{index}]", rule, family, strict=strict)


def _rule_problems(path: str, rule: FilterRule, family: int, *, strict: bool) -> Iterator[Problem]:
    yield from terms.choice_problems(f"{path}.action", rule.action, ("Accept", "Reject"))
    yield from _prefix_problems(path, rule, family, strict=strict)
    for name, choice, choices in (
        ("source", rule.source, ("RemotePeers",)),
        ("peerType", rule.peer_type, ("eBGP", "iBGP")),
    ):
        yield from terms.choice_problems(f"{path}.{name}", choice or None, choices)
    if rule.interface and not is_interface_pattern(rule.interface):
        what = "must be 1 to 15 letters, digits, '_', '.', '-', '*' and '?'"
        yield Problem(f"{path}.interface", rule.interface, what)
    if rule.communities is not None:
        values = rule.communities.values
        if len(values) != 1:
            yield Problem(f"{path}.communities.values", values, "must be exactly one")
        for index, value in enumerate(values):
            yield from _community_problems(f"{path}.communities.values[{index}]", value)
    yield from _as_numbers_problems(f"{path}.asPathPrefix", rule.as_path_prefix)
    yield from terms.range_problems(f"{path}.priority", rule.priority, *PRIORITY)
    if rule.operations and rule.action != "Accept":
        yield Problem(f"{path}.operations", "given", "can be only with action Accept")
    yield from terms.count_problems(f"{path}.operations", rule.operations, OPERATIONS_MAX)
    for index, operation in enumerate(rule.operations):
        yield from _operation_problems(f"{path}.operations[{index}]", operation)


def _prefix_problems(
    path: str, rule: FilterRule, family: int, *, strict: bool
) -> Iterator[Problem]:
    if bool(rule.cidr) != bool(rule.match_operator):
        missing = "matchOperator" if rule.cidr else "cidr"
        yield Problem(f"{path}.{missing}", "", "is needed: cidr and matchOperator go together")
    if rule.match_operator:
        choices = ("Equal", "NotEqual", "In", "NotIn")
        yield from terms.choice_problems(f"{path}.matchOperator", rule.match_operator, choices)
    if len(rule.cidr) > (most := CIDR_MAX_CHARACTERS[family]):
        yield Problem(f"{path}.cidr", rule.cidr, f"must have at most {most} characters")
    elif rule.cidr:
        yield from terms.network_problems(f"{path}.cidr", rule.cidr, strict=strict)
        network = parsed_network(rule.cidr)
        if network is not None and network.family != family:
            yield Problem(f"{path}.cidr", rule.cidr, f"must be an IPv{family} network")
    if rule.prefix_length is not None:
        if not rule.cidr:
            yield Problem(f"{path}.prefixLength", "given", "needs cidr")
        bits = 32 if family == 4 else 128
        low, high = rule.prefix_length.min, rule.prefix_length.max
        yield from terms.range_problems(f"{path}.prefixLength.min", low, 0, bits)
        yield from terms.range_problems(f"{path}.prefixLength.max", high, 0, bits)


def _operation_problems(path: str, operation: Operation) -> Iterator[Problem]:
    given = [operation.add_community, operation.prepend_as_path, operation.set_priority]
    if sum(part is not None for part in given) != 1:
        yield Problem(path, None, "must be one of addCommunity, prependASPath, setPriority")
    if operation.add_community is not None:
        yield from _community_problems(f"{path}.addCommunity.value", operation.add_community.value)
    if operation.prepend_as_path is not None:
        prefix = operation.prepend_as_path.prefix
        yield from _as_numbers_problems(f"{path}.prependASPath.prefix", prefix)
        if not 1 <= len(prefix) <= PREPENDED_MAX:
            yield Problem(f"{path}.prependASPath.prefix", prefix, f"must be 1 to {PREPENDED_MAX}")
    if operation.set_priority is not None:
        value = operation.set_priority.value
        if value is None:
            yield Problem(f"{path}.setPriority.value", None, "is needed")
        yield from terms.range_problems(f"{path}.setPriority.value", value, *PRIORITY)


def _community_problems(path: str, text: str) -> Iterator[Problem]:
    if not is_community(text):
        yield Problem(path, text, _COMMUNITY_RULE)


def _as_numbers_problems(path: str, numbers: Sequence[int]) -> Iterator[Problem]:
    for index, number in enumerate(numbers):
        yield from terms.range_problems(f"{path}[{index}]", number, 0, AS_NUMBER_MAX)
