"""What clients of the attach service ask, and what it answers.

One JSON object a line, each way, over a unix stream socket:

    {"call":"add","namespace":"prod","workload":"web-1","netns":"/run/netns/web-1", …}
    {"result":{"addresses":["10.65.0.7/32"],"interface":"cali0123456789a", …}}
    {"error":{"kind":"InvalidInput","message":"…","retryable":false}}

Unknown fields are ignored, so that older agents understand newer clients.
"""

import math
from typing import Literal, TypeAlias

import msgspec

from tortie.kernel.rtnl.link import parse_mac
from tortie.lib.errors import InvalidInput, TortieError
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model import names
from tortie.model.endpoint import QoSControls

REQUEST_MAX_BYTES = 1 << 20
"""CNI's GC names every container of a host."""
TIMEOUT_MAX_SECONDS = 300.0
MTU_MIN, MTU_MAX = 1280, 65535
"""IPv6 needs 1280 (RFC 8200, section 5)."""
TEXT_MAX_BYTES = 253
_LINK_LOCAL = (parse_network("169.254.0.0/16"), parse_network("fe80::/10"))
_NOBODYS = tuple(
    parse_network(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
        "::/127", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip
"""No workload has such an address, whoever hands it out: they are every host's own, or a group's.
Pools cannot have them; annotations (`ipAddrsNoIpam`, `floatingIPs`) and other IPAM plugins could.
Source: RFC 6890."""


class WorkloadKey(msgspec.Struct, frozen=True, order=True):
    """Names one endpoint of one workload, on whatever host it is."""

    namespace: str
    orchestrator: str
    workload: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.orchestrator} workload {self.namespace}/{self.workload} ({self.endpoint})"

    @property
    def handle_id(self) -> str:
        """The IPAM handle unless a request names one. Without the host: a move keeps it."""
        return f"{self.orchestrator}.{self.namespace}.{self.workload}.{self.endpoint}"


Device: TypeAlias = Literal["veth", "pair", "tap", "existing"]
"""What the host's end is: a pair into a namespace, a pair of which somebody else (Docker) moves
and configures the far end, a tap made for a VM, or an interface that somebody else made and will
remove."""


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A port with a name, for policies to refer to."""

    name: str = ""
    """Empty only where a port of the host leads to it."""
    protocol: str = "TCP"
    port: int
    host_port: int = 0
    host_ip: str = ""


class Nat(msgspec.Struct, frozen=True, kw_only=True):
    """An address outside, translated to the workload's own one of the same family."""

    external: str


class _Call(msgspec.Struct, frozen=True, kw_only=True, tag_field="call"):
    pass


class _Workload(_Call, frozen=True, kw_only=True):
    namespace: str
    workload: str
    orchestrator: str = "tortie"
    endpoint: str = "eth0"
    timeout_seconds: float = 30.0

    @property
    def key(self) -> WorkloadKey:
        return WorkloadKey(self.namespace, self.orchestrator, self.workload, self.endpoint)


class Add(_Workload, frozen=True, kw_only=True, tag="add"):
    """Bring a workload in; again for the same workload changes nothing and answers the same."""

    netns: str = ""
    """Path of its network namespace; empty for a VM."""
    device: Device = "veth"
    inside: str = "eth0"
    """Name of its interface in there."""
    host_interface: str = ""
    """Name of the host's end; empty: the prefix (`cali`) and a hash of namespace and workload."""
    labels: dict[str, str] = {}
    profiles: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    families: tuple[int, ...] = (4,)
    addresses: tuple[str, ...] = ()
    """These rather than any; each implies its family."""
    pools: tuple[str, ...] = ()
    """Names of IPPools to choose from; empty: every automatic one."""
    ipam: bool = True
    """False: somebody else hands out `addresses`; they are taken as they are."""
    handle: str = ""
    """IPAM handle; empty: made from the key."""
    mac: str = ""
    mtu: int = 0
    """0: the service's default."""
    container_id: str = ""
    """Of another container than before: this one takes its place."""
    pod: str = ""
    service_account: str = ""
    network: str = ""
    """Name of the CNI network; what is not of it, its GC leaves alone."""
    default_routes: bool = True
    forwarding: bool = False
    """Let the workload forward packets (`net.ipv4.ip_forward` inside)."""
    nats: tuple[Nat, ...] = ()
    qos: QoSControls | None = None
    """Limits of its traffic."""
    gateways: tuple[str, ...] = ()
    """Link-local addresses that the host's end of a `pair` answers for; empty: the usual ones."""
    held: bool = False
    """Make the link and no endpoint yet, so that nothing passes; a second Add, without this,
    says what policy needs to know and opens it."""
    allowed_sources: tuple[str, ...] = ()
    """Prefixes that it may send from, beside its own addresses."""
    dhcp: bool = False
    """It asks this host for its address: `tortie dhcp serve` answers."""
    dns: tuple[str, ...] = ()
    """Name servers that it is told then; empty: that service's own choice."""

    @property
    def handle_id(self) -> str:
        return self.handle or self.key.handle_id

    def interface(self, prefix: str) -> str:
        """The host's end: as asked for, or made from the key.

        Args:
            prefix: what the names of all workload interfaces start with.
        """
        if self.host_interface:
            return self.host_interface
        # The first endpoint has Calico's name; another one of the same workload differs.
        suffix = "" if self.endpoint == "eth0" else f".{self.endpoint}"
        return names.interface_name(self.namespace, self.workload + suffix, prefix)

    @property
    def requested(self) -> tuple[Network, ...]:
        return tuple(parse_address(text) for text in self.addresses)


class Remove(_Workload, frozen=True, kw_only=True, tag="remove"):
    """Take a workload out; again, or for one that was never there, is fine."""

    keep_addresses: bool = False
    """Leave them allocated to the handle: the workload is about to come up elsewhere."""
    container_id: str = ""
    """Only if it is this one; a late call for an earlier container changes nothing."""
    wait_for_link: bool = True
    """False: answer when the endpoint is gone and the rest is sure to follow."""
    handle: str = ""
    """IPAM handle to release where nothing is recorded; empty: made from the key."""

    @property
    def handle_id(self) -> str:
        return self.handle or self.key.handle_id


class List(_Call, frozen=True, kw_only=True, tag="list"):
    """All workloads of this host, by key."""


class Check(_Workload, frozen=True, kw_only=True, tag="check"):
    """Is everything in place that Add made?"""

    netns: str = ""
    """Where its namespace is by now; empty: where Add found it."""


class Cni(_Call, frozen=True, kw_only=True, tag="cni"):
    """A container runtime's request, as the plugin got it.

    Answered by `{"result":…}` (a CNI result, or null), `{"error":…}` (a CNI error object), or
    `{"delegate":…}`: run that IPAM plugin, then ask again with its answer.
    """

    plugin: str
    """The name that the plugin was started by; one that ends with `-ipam` is IPAM alone."""
    command: str
    environment: dict[str, str] = {}
    """CNI_*."""
    handle: int = -1
    """Of CNI_NETNS, open in the plugin; -1: it is not there."""
    config: str = ""
    delegated: str | None = None
    """What the IPAM plugin of `delegate` has said."""


Request: TypeAlias = Add | Remove | List | Check | Cni


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """A workload as it is."""

    key: WorkloadKey
    addresses: tuple[str, ...]
    """Each a /32 or /128, IPv4 first."""
    interface: str
    """The host's end."""
    inside: str
    netns: str
    mac: str
    """Of the workload's end."""
    revision: int = 0
    """Datastore revision of its endpoint that is enforced on this host; 0 while it is held."""
    network: str = ""
    timings: dict[str, float] = {}
    """Seconds that each step took, in order; empty in lists."""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    found: bool
    """False: there was nothing to remove."""
    pending: bool = False
    """The datastore is away: the link is gone, the rest follows when it is back."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    workloads: tuple[Attached, ...]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    problems: tuple[str, ...]
    """Empty: everything is in place."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    """Name of the error's class."""
    message: str
    retryable: bool
    """May the very same call succeed later?"""


Result: TypeAlias = Attached | Removed | Listed | Checked

_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def decode_request(line: bytes) -> Request:
    """Parse and check, so that everything inside can trust it.

    Raises:
        InvalidInput: what is wrong, in terms of the field.
    """
    try:
        request = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"attach request: {error}") from None
    check_request(request)
    return request


def check_request(request: Request) -> None:
    """
    Raises:
        InvalidInput: what is wrong, in terms of the field.
    """
    if isinstance(request, _Workload):
        _check_workload(request)
    if isinstance(request, Add | Remove):
        for field in ("handle", "container_id"):
            value = getattr(request, field)
            good = not value or _is_plain(value, 2 * TEXT_MAX_BYTES + 1)
            _check(good, field, value, "letters, digits, '_', '.' and '-'")
    if isinstance(request, Add):
        _check_add(request)


def encode_result(result: Result) -> bytes:
    return msgspec.json.encode({"result": result}) + b"\n"


def encode_error(error: TortieError) -> bytes:
    failure = Failure(kind=type(error).__name__, message=str(error), retryable=error.retryable)
    return msgspec.json.encode({"error": failure}) + b"\n"


def _check_workload(request: _Workload) -> None:
    _check(names.is_dns_label(request.namespace), "namespace", request.namespace, "a DNS label")
    for field in ("workload", "orchestrator", "endpoint"):
        value = getattr(request, field)
        _check(_is_plain(value), field, value, "1 to 253 letters, digits, '_', '.' and '-'")
    seconds = request.timeout_seconds
    good = math.isfinite(seconds) and 0 < seconds <= TIMEOUT_MAX_SECONDS
    _check(good, "timeout_seconds", seconds, f"more than 0, at most {TIMEOUT_MAX_SECONDS:g}")


def _check_add(request: Add) -> None:
    for field in ("inside", "host_interface"):
        value = getattr(request, field)
        good = names.is_interface_name(value) or (field == "host_interface" and not value)
        _check(good, field, value, "1 to 15 letters, digits, '_', '.' and '-'")
    if request.device == "veth":
        _check(request.netns.startswith("/"), "netns", request.netns, "an absolute path")
    else:
        _check(not request.netns, "netns", request.netns, f"empty for a {request.device}")
    named = bool(request.host_interface) or request.device != "existing"
    _check(named, "host_interface", request.host_interface, "given: it exists already")
    _check("\0" not in request.netns, "netns", request.netns, "without NUL")
    good = bool(request.families or request.addresses) and set(request.families) <= {4, 6}
    _check(good, "families", request.families, "4, 6 or both")
    _check(len(request.addresses) <= 16, "addresses", len(request.addresses), "at most 16")
    for address in request.requested:
        _check_usable("addresses", address)
    _check(request.ipam or request.addresses, "addresses", (), "given where IPAM is not asked")
    for gateway in map(parse_address, request.gateways):
        good = any(network.contains(gateway) for network in _LINK_LOCAL)
        _check(good, "gateways", gateway.address_text, "link-local")
    for nat in request.nats:
        _check_usable("nats", parse_address(nat.external))
    for prefix in request.allowed_sources:
        parse_network(prefix)
    for server in request.dns:
        parse_address(server)
    _check(request.dhcp or not request.dns, "dns", request.dns, "empty without dhcp")
    is_machine = request.device in ("tap", "existing")
    _check(is_machine or not request.dhcp, "dhcp", request.dhcp, "false but for virtual machines")
    if request.mtu:
        good = MTU_MIN <= request.mtu <= MTU_MAX
        _check(good, "mtu", request.mtu, f"{MTU_MIN} to {MTU_MAX}")
    if request.mac:
        octets = parse_mac(request.mac)
        good = any(octets) and not octets[0] & 1
        _check(good, "mac", request.mac, "a unicast address")
    for name in request.profiles:
        _check(names.is_name("Profile", name), "profiles", name, names.NAME_RULE)
    for key, value in request.labels.items():
        good = names.is_label_key(key) and names.is_label_value(value)
        _check(good, "labels", f"{key}={value}", "a label as in Kubernetes")


def _check_usable(field: str, address: Network) -> None:
    good = not any(network.contains(address) for network in _NOBODYS)
    _check(good, field, address.address_text, "an address that one workload may have")


def _is_plain(text: str, most: int = TEXT_MAX_BYTES) -> bool:
    plain = text.replace("-", "").replace("_", "").replace(".", "")
    return 0 < len(text) <= most and plain.isascii() and plain.isalnum()


def _check(good: object, field: str, value: object, rule: str) -> None:
    if not good:
        raise InvalidInput(f"attach request: {field} is {value!r}; it must be {rule}")
