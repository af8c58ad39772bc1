"""Values for fields: right ones, wrong ones, and those just on a boundary."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tests.model.objects import seeded

_NEVER = [
    r"Policy spec\.egress\[\]\.http\b",
    r"Policy spec\.egress\[\]\.source\.services\b",
    r"Policy spec\.ingress\[\]\.destination\.services\b",
]
"""Fields of the schemas that another rule forbids: nothing valid has them."""


def never_valid(kind: str, path: str) -> bool:
    where = f"{kind} {path}"
    return "Kubernetes" not in kind and any(re.search(pattern, where) for pattern in _NEVER)


# --- one valid value ----------------------------------------------------------------

_TEXTS: list[tuple[str, str]] = [
    # By the end of the path; {} is a number, so that entries of a list differ.
    (r"apiVersion$", "projectcalico.org/v3"),
    (r"[sS]elector$", "a == '{}'"),
    (r"(nets|notNets|interfaceCIDRs|except|reservedCIDRs|CIDRs|CIDRsFromNAT)\[\]$", "10.1.{}/32"),
    (r"(cidr|CIDR)$", "10.0.0.0/16"),
    (r"V6\[\]\.cidr$", "fd00::/8"),
    (r"expectedIPs\[\]$", "10.1.{}"),
    (r"(peerIP|reachableBy|natOutgoingAddress|deviceRouteSourceAddress|IPV4)$", "10.0.0.1"),
    (r"(IPv6|IPV6)$", "fd00::1"),
    (r"communities(\.values)?\[\]$", "65000:{}"),
    (r"Community\.value$", "65000:1"),
    (r"communities\[\]\.value$", "65000:1"),
    (r"(Time|since)$|lastUpdated$", "2026-01-01T00:00:00Z"),
    (
        r"([a-z](Interval|Delay|After|Period|Timeout|TTL|Duration)|[kK]eep[aA]live(Time)?"
        r"|RestartTime|ConvergenceTime|PeriodSecs|[dD]elay|timeout|MinSyncPeriod"
        r"|conntrackTimeouts\.\w+|[a-z]FragTimeout)$",
        "5s",
    ),
    (r"bpfConntrackTimeouts\.\w+$", "5s"),
    (r"ports\[\]\.name$", "http"),
    (r"ports\[\]\.protocol$", "TCP"),
    (r"[pP]rotocol$", "TCP"),
    (r"paths\[\]\.(exact|prefix)$", "/a"),
    (r"methods\[\]$", "M{}"),
    (r"openstackRegion$", "region"),
    (r"externalNodesList\[\]$", "10.1.{}/32"),
    (r"logActionRateLimit$", "10/second"),
    (r"featureDetectOverride$", "A=true"),
    (r"featureGates$", "A=b"),
    (r"reason$", "Fine"),
    (r"conditions\[\]\.type$", "Ready"),
    (r"operator$", "Exists"),
    (r"failsafe\w+\[\]\.net$", "10.0.0.0/8"),
    (r"failsafe\w+\[\]\.protocol$", "udp"),
    (r"matchExpressions\[\]\.values\[\]$", "v{}"),
    (r"createDefaultHostEndpoint$", "Enabled"),
    (r"policyTypes\[\]$", "Ingress"),
    (r"metadataAddr$", "127.0.0.1"),
]
_EITHER: list[tuple[str, int | str]] = [
    (r"[pP]rotocol$", "TCP"),
    (r"(natPortRange|bpfPSNATPorts)$", "1000:2000"),
    (r"[pP]orts\[\]$", 80),
    (r"NodePortRanges\[\]$", "30000:32767"),
    (r"istioDSCPMark$", 23),
    (r"port$", 80),
]


def valid(kind: str, path: str, facts: dict[str, Any], number: int = 1) -> Any:
    """A valid value; other numbers make other ones where a list needs them."""
    if "enum" in facts:
        choices = [choice for choice in facts["enum"] if choice != ""]
        return choices[(number - 1) % len(choices)]
    match facts.get("type", "object"):
        case "string":
            return _text(kind, path, facts, number)
        case "integer" if path.endswith("blockSize"):
            return 128
        case "integer" | "number":
            return facts.get("minimum", 0) + number
        case "boolean":
            return facts.get("default", True)
        case "array":
            return [_entry(kind, f"{path}[]", 1)]
        case "integer or string":
            for pattern, value in _EITHER:
                if re.search(pattern, path):
                    return value + number if isinstance(value, int) else value
            raise AssertionError(f"nothing is known to fit {kind} {path}")
    return _object(kind, path, number)


def _text(kind: str, path: str, facts: dict[str, Any], number: int) -> str:
    if path == "kind":
        return kind
    if choices := _choices_of(facts.get("pattern", "")):
        return choices[0]
    found = "text{}"
    for pattern, text in _TEXTS:
        if re.search(pattern, path):
            found = text
    if found.startswith("10.1.{}"):
        return found.format(f"{number // 256}.{number % 256}")
    return found.format(number)


def _entry(kind: str, path: str, number: int) -> Any:
    """The entry of a list, by the facts that the schema has about it."""
    from tests.model.test_constraints import SCHEMAS

    facts = SCHEMAS[kind].get(path, {"type": "object"})
    return valid(kind, path, facts, number)


def _object(kind: str, path: str, number: int) -> Any:
    if re.search(r"(in|e)gress\[\]\.(source|destination)$", path):
        return {"selector": "all()"}
    if path.endswith("operations[]"):
        return {"addCommunity": {"value": f"65000:{number}"}}
    if path.endswith("http.paths[]"):
        return {"exact": f"/{number}"}
    if path.endswith(("from[]", "to[]")):
        return {"podSelector": {}}
    if path.endswith("password"):
        return {"secretKeyRef": {"key": "k"}}
    made = seeded(kind, path)
    if path.endswith("conditions[]"):
        made["type"] = f"Ready{number}"
    if path.endswith("templates[]"):
        made["generateName"] = f"a{number}"
    return made


# --- values that break one constraint, and values that just keep it -------------------

_WRONG_TYPE: dict[str, Any] = {
    "string": 7,
    "integer": "x",
    "number": "x",
    "boolean": "yes",
    "array": "x",
    "object": "x",
    "integer or string": [1],
}
_INT32_UNSIGNED = r"(asNumber|localASNumber|prefix\[\]|asPathPrefix\[\])$"
"""AS numbers: 32 bits without a sign, whatever the schema's format says."""


def wrong(kind: str, path: str, name: str, value: Any, facts: dict[str, Any]) -> Iterator[Any]:
    """Values for the field that break the constraint."""
    match name:
        case "type":
            yield _WRONG_TYPE[value]
        case "minimum":
            yield value - 1
        case "maximum":
            yield value + 1
        case "maxLength":
            yield text_of(path, value + 1)
        case "minLength":
            yield "a" * (value - 1)
        case "maxItems":
            yield _entries(kind, path, value + 1)
        case "minItems":
            yield _entries(kind, path, value - 1)
        case "minProperties":
            yield {}
        case "maxProperties":
            yield {"addCommunity": {"value": "65000:1"}, "setPriority": {"value": 1}}
        case "enum":
            yield 5 if isinstance(value[0], int) else "Nonsense"
        case "pattern":
            yield from ("!", "a b!")
            if "(ms|s" in value:
                yield from ("-5s", "5", "5ns", "5 s", "1d")
        case "format":
            yield from _wrong_format(path, value)
        case "unique":
            yield [_entry(kind, f"{path}[]", 1)] * 2
        case "uniqueBy":
            yield [_entry(kind, f"{path}[]", 1), _entry(kind, f"{path}[]", 1)]


def _wrong_format(path: str, form: str) -> Iterator[Any]:
    match form:
        case "cidr":
            yield from ("10.0.0.0/33", "10.0.0/24", "fd00::/129", "word")
        case "date-time":
            yield from ("yesterday", "2026-13-01T00:00:00Z", "2026-01-01")
        case "int32":
            yield 2**32 if re.search(_INT32_UNSIGNED, path) else 2**31
        case "int64":
            yield 2**63


def right(kind: str, path: str, name: str, value: Any, facts: dict[str, Any]) -> Iterator[Any]:
    """Values on the boundary of the constraint, and within all others."""
    match name:
        case "minimum" | "maximum":
            yield value
        case "format" if path.endswith("endPort"):
            yield 65535
        case "maxLength":
            yield text_of(path, value)
        case "minLength":
            yield "a" * value
        case "maxItems" | "minItems":
            if value <= len(facts_of_entries(kind, path).get("enum", range(value))):
                yield _entries(kind, path, value)
            else:  # a set of few names cannot have that many
                yield _entries(kind, path, 1)
        case "minProperties" | "maxProperties":
            yield from (
                {"addCommunity": {"value": "65000:1"}},
                {"prependASPath": {"prefix": [1]}},
                {"setPriority": {"value": 1}},
            )
        case "enum":
            yield from value
        case "pattern":
            yield from _right_pattern(path, value)
        case "format" if value in ("int32", "int64") and "maximum" not in facts:
            limit = {"int32": 2**31, "int64": 2**63}[value]
            yield (2 * limit if re.search(_INT32_UNSIGNED, path) else limit) - 1
        case "unique" | "uniqueBy":
            few = len(facts_of_entries(kind, path).get("enum", "12")) < 2
            yield _entries(kind, path, 1 if few else 2)
        case _:
            yield valid(kind, path, facts)


def facts_of_entries(kind: str, path: str) -> dict[str, Any]:
    from tests.model.test_constraints import SCHEMAS

    return SCHEMAS[kind].get(f"{path}[]", {})


def _entries(kind: str, path: str, count: int) -> list[Any]:
    if path.endswith(("olicyTypes", "spec.types")):
        return ["Ingress", "Egress", "Ingress"][:count]
    return [_entry(kind, f"{path}[]", number + 1) for number in range(count)]


def text_of(path: str, length: int) -> str:
    """A text of that many characters, or the longest that the field can have."""
    if re.search(r"[sS]elector$", path):
        return "a == '" + "b" * (length - 7) + "'"
    if path.endswith(("V4[].cidr", "IPPool.cidr")):
        return "100.100.100.100/32"[:length] if length <= 18 else "100.100.100.100/032"
    if path.endswith("V6[].cidr"):
        full = ":".join(["fdff"] * 8)
        return f"{full}/128" if length <= 43 else f"{full}/0128"
    if path.endswith("spec.cidr"):
        full = ":".join(["fdff"] * 8)
        return f"{full[:-4]}0000/116" if length <= 48 else "fd00::" + "0" * length + "/64"
    if path.endswith(("natOutgoingAddress", "deviceRouteSourceAddress")):
        return "100.100.100.100" if length <= 45 else "1" * length
    if path.endswith("deviceRouteSourceAddressIPv6"):
        return ":".join(["fdff"] * 8) if length <= 45 else "1" * length
    if path.endswith(("peerIP", "reachableBy")):
        if length > 64:
            return "1" * length
        full = ":".join(["fdff"] * 8)
        return f"[{full}]:65535" if path.endswith("peerIP") else "100.100.100.100"
    if path.endswith(("spec.node", "services.name", "services.namespace", "generateName")):
        return ".".join(["a" * 62] * 5)[: length - 1] + "z"
    if re.search(r"paths\[\]\.(exact|prefix)$", path):
        return "/" + "a" * (length - 1)
    if path.endswith("communities[].value"):
        whole = "4294967295:4294967295:4294967295"
        return whole if length <= 40 else "0" * (length - len(whole)) + whole
    if path.endswith(("values[]", "Community.value")):
        whole = "4294967295:4294967295:4294967295"
        return whole if length <= len(whole) else f"0{whole}"
    if path.endswith("conditions[].type"):
        return "a" * 63 + "." + ".".join(["b" * 63] * 2) + ".c" * 30 + "/" + "d" * (length - 252)
    return "a" * length


def _choices_of(pattern: str) -> Sequence[str]:
    found = re.fullmatch(r"\^\(\?i\)\((.*)\)\?\$", pattern)
    return found[1].split("|") if found else ()


def _right_pattern(path: str, pattern: str) -> Iterator[str]:
    choices = _choices_of(pattern)
    yield from choices
    # An enumeration beside it takes one spelling only.
    yield from (choice.upper() for choice in choices if not path.endswith("iptablesBackend"))
    if choices:
        return
    if "(ms|s|h|m|us)" in pattern:
        yield from ("Auto", "5s", "1h30m", "1.5s", "10us", "20ms")
    elif "(ms|s|m|h)" in pattern:
        yield from ("5s", "1h30m10s", "1.5s", "200ms", "0s")
    elif "second|minute" in pattern:
        yield from ("1/second", "9999/minute", "1/hour", "10/day")
    elif "true|false" in pattern:
        yield from ("A=true", "A=true,B-c_d=false", "A=true,", "A=")
    elif "[^=]+" in pattern:
        yield from ("A=b", "A=b,C=d e", "A=b,")
    elif "%: /" in pattern:
        yield "a-Z_0%: /"
    elif "65535" in pattern or "655[0-2]" in pattern:
        yield from ("0:0", "65535:65535", "0:0:0", "4294967295:4294967295:4294967295")
    elif r"(\d+):(\d+)" in pattern:
        yield from ("65535:65535", "4294967295:1:1")
    elif "A-Za-z0-9_,:" in pattern:
        yield from ("A", "Ab,c:_", "A1")
    elif "[-A-Za-z0-9_.]" in pattern:
        yield from ("Ready", "a.example.com/Ready_1")
    else:
        raise AssertionError(f"nothing is known to fit {pattern}")
