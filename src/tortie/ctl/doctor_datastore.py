"""Checks of `tortie doctor`: settings, the datastore, and this host in it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tortie.agent.parameters import BY_NAME, parse_parameter
from tortie.bgp import autodetect
from tortie.bgp.manager import SECRETS_DIRECTORY
from tortie.ctl.cluster_facts import Cluster
from tortie.ctl.diagnosis import Finding, Host, good, problem, unknown, warning
from tortie.ctl.node import interfaces, source_towards
from tortie.datastore.connect import DEFAULT_CONFIG_FILE, DatastoreType
from tortie.lib.errors import InvalidInput, TortieError
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.node import ClusterInformation, IPPool, Node

SKEW_SECONDS = 5.0
REPORT_SECONDS = 95.0
"""An agent reports every 30 s, and its report is gone after 90."""
ETCD_AT_LEAST = (3, 4)
SLOW_SECONDS = 0.2
SOON = timedelta(days=14)
PEERS_MAX = 100
"""Routes to more are not looked up one by one."""

_SECRET = re.compile(r"(?im)(password|^\s*etcdKey:|PRIVATE KEY)")


def settings(host: Host) -> Finding:
    """Files that cannot be read, and settings that mean nothing."""
    mistakes = [*_unknown_settings(host)]
    try:
        _ = host.datastore
    except TortieError as error:
        mistakes.append(str(error))
    if mistakes:
        return problem("; ".join(mistakes), "correct it, then: systemctl restart tortie-agent")
    return good("what is set is valid")


def _unknown_settings(host: Host) -> Iterator[str]:
    try:
        local = host.local
    except TortieError as error:
        yield str(error)
        return
    for origin, texts in (("environment", local.environment), (local.file_name, local.file)):
        for name, text in texts.items():
            # What Calico has and we have not is no mistake; a value that does not parse is.
            parameter = BY_NAME.get(name)
            if parameter is None:
                continue
            try:
                parse_parameter(parameter, text, origin)
            except InvalidInput as error:
                yield str(error)


def permissions(host: Host) -> Finding:
    """Files with secrets that others may read, and keys that nobody can."""
    bad = []
    for path in _files_of_settings(host):
        try:
            found = path.stat()
            text = path.read_text(errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            bad.append(f"{path}: {error.strerror}")
            continue
        is_secret = path.is_relative_to(SECRETS_DIRECTORY) or _SECRET.search(text)
        if is_secret and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            bad.append(f"{path} holds a secret, and others may read it")
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            bad.append(f"others may write {path}")
        if found.st_uid not in (0, os.geteuid()):
            bad.append(f"{path} belongs to user {found.st_uid}, and the agent is root")
    if bad:
        return problem("; ".join(bad), "chown root: FILE && chmod 600 FILE")
    return good("secrets are root's alone")


def _files_of_settings(host: Host) -> Iterator[Path]:
    yield host.environment_file
    yield host.felix_config
    yield host.config_file or DEFAULT_CONFIG_FILE
    try:
        named = host.datastore
    except TortieError:
        named = None
    if named is not None and named.key_file is not None:
        yield named.key_file
    if SECRETS_DIRECTORY.is_dir():
        yield from (path for path in SECRETS_DIRECTORY.rglob("*") if path.is_file())


def reachable(host: Host) -> Finding:
    found = host.cluster
    if isinstance(found, TortieError):
        return problem(
            f"the datastore does not answer: {found}",
            "is it running, is the address right (ETCD_ENDPOINTS, calicoctl.cfg), does a firewall "
            "let port 2379 pass?",
        )
    kind = host.datastore.type.value if host.datastore.type else ""
    took = f"{kind} answers in {found.answer_seconds * 1000:.0f} ms"
    if found.answer_seconds > SLOW_SECONDS:
        return warning(took, "policy takes effect that much later; is the disk of etcd slow?")
    return good(took)


def rights(host: Host) -> Finding:
    found = host.cluster
    if isinstance(found, TortieError):
        return unknown("the datastore does not answer")
    if found.denied:
        return problem("; ".join(found.denied), "give this user the role of an agent in etcd")
    return good("everything that an agent reads may be read")


def stored_objects(host: Host) -> Finding:
    found = host.cluster
    if isinstance(found, TortieError):
        return unknown("the datastore does not answer")
    if found.unreadable:
        return problem(
            f"{len(found.unreadable)} stored objects are invalid and count as absent: "
            f"{'; '.join(found.unreadable[:3])}",
            "write them anew: tortie get KIND NAME -o yaml shows the rest",
        )
    return good("nodes, pools and settings are valid")


def etcd_versions(host: Host) -> Finding:
    if host.datastore.type is not DatastoreType.ETCDV3:
        return good("no etcd, no version")
    servers, failures = host.etcd_servers
    old = [one for one in servers if _version(one.version) < ETCD_AT_LEAST]
    if old:
        return problem(
            ", ".join(f"{one.endpoint} is etcd {one.version}" for one in old),
            "etcd 3.4 or later is needed",
        )
    if failures:
        remedy = "an endpoint that is down is no harm while a majority of etcd is up"
        return warning("; ".join(map(str, failures)), remedy)
    if not servers:
        return unknown("endpoints that cannot be asked over HTTP")
    return good(", ".join(sorted({f"etcd {one.version}" for one in servers})))


def certificates(host: Host) -> Finding:
    if not any(endpoint.startswith("https") for endpoint in host.datastore.endpoints):
        return good("no TLS, no certificates")
    servers, failures = host.etcd_servers
    expired = [error for error in failures if "expired" in str(error)]
    remedy = "renew it on etcd's hosts, and its authority in /etc/calico; etcd reads both anew"
    if expired:
        return problem("; ".join(map(str, expired)), remedy)
    for one in servers:
        if one.expires is not None and one.expires - datetime.now(UTC) < SOON:
            return warning(f"the certificate of {one.endpoint} ends at {one.expires:%F %R}", remedy)
    if not servers:
        return unknown("no endpoint shows a certificate")
    return good(f"no certificate ends within {SOON.days} days")


def clocks(host: Host) -> Finding:
    """Etcd's clock and other agents' reports against ours. Nothing rests on clocks but
    certificates, logs, and the times that people compare."""
    remedy = "run one time service on all hosts: apt-get install chrony"
    if host.datastore.type is DatastoreType.ETCDV3:
        for one in host.etcd_servers[0]:
            if abs(one.clock_ahead_seconds) > SKEW_SECONDS:
                ahead = f"{one.clock_ahead_seconds:+.0f} s"
                return problem(f"the clock of {one.endpoint} is at {ahead} of ours", remedy)
    found = host.cluster
    if isinstance(found, TortieError):
        return unknown("the datastore does not answer")
    now = datetime.now(UTC)
    for name, said in found.reports.items():
        behind_seconds = (now - said).total_seconds()
        if not -SKEW_SECONDS < behind_seconds < REPORT_SECONDS:
            return problem(f"the clock of {name} is at {-behind_seconds:+.0f} s of ours", remedy)
    return good(f"within {SKEW_SECONDS:.0f} s of etcd and of {len(found.reports)} agents")


def ready_for_use(host: Host) -> Finding:
    found = host.cluster
    if isinstance(found, TortieError):
        return unknown("the datastore does not answer")
    information = found.named("ClusterInformation", "default")
    if not isinstance(information, ClusterInformation):
        return problem("the datastore is not initialised", "the first agent does it: start one")
    if information.spec.datastore_ready is False:
        return problem(
            "the datastore is locked: agents keep what they have, and wait",
            "when the migration is over: tortie datastore migrate unlock",
        )
    return good("the datastore is ready for use")


def node(host: Host) -> Finding:
    """This host's Node, and whether its address is one of this machine's."""
    found = host.cluster
    if isinstance(found, TortieError):
        return unknown("the datastore does not answer")
    stored = found.named("Node", host.name)
    if not isinstance(stored, Node):
        return problem(
            f"there is no Node {host.name}",
            "tortie node run makes it; NODENAME says what this host is called",
        )
    own = {address.address for link in interfaces() for address in link.addresses}
    bgp = stored.spec.bgp
    for text in (bgp.ipv4_address, bgp.ipv6_address) if bgp else ():
        if text and parse_address(text.partition("/")[0]) not in own:
            return problem(
                f"Node {host.name} has {text}, and no interface here has it",
                "another host of the same name? else IP=autodetect, and restart the agent",
            )
    if bgp is None or not (bgp.ipv4_address or bgp.ipv6_address):
        return warning(
            f"Node {host.name} has no address: others have no route to its workloads",
            "set IP=autodetect in calico.env, and restart the agent",
        )
    return good(f"Node {host.name}, {bgp.ipv4_address or bgp.ipv6_address}")


def detection(host: Host) -> Finding:
    """Whether autodetection would give what is stored."""
    method = host.environment.get("IP_AUTODETECTION_METHOD") or "first-found"
    try:
        detected = autodetect.detect(method, 4, interfaces(), lambda to: source_towards(to, 4))
    except InvalidInput as error:
        return problem(str(error), "correct IP_AUTODETECTION_METHOD in calico.env")
    if detected.address is None:
        return warning(f"no IPv4 address is found by {method}", "give it: IP=ADDRESS in calico.env")
    found = host.cluster
    stored = None if isinstance(found, TortieError) else found.named("Node", host.name)
    shown = f"{detected.address} on {detected.interface}, by {method}"
    if isinstance(stored, Node) and stored.spec.bgp and stored.spec.bgp.ipv4_address:
        has = stored.spec.bgp.ipv4_address.partition("/")[0]
        if has != str(detected.address).partition("/")[0]:
            return warning(
                f"{shown}; the Node has {has}",
                "if that is meant, say so: IP=ADDRESS in calico.env; tortie node autodetect "
                "--explain shows what was looked at",
            )
    return good(shown)


def pools(host: Host) -> Finding:
    """Pools that hold addresses of this machine would take its packets away."""
    found = host.cluster
    if isinstance(found, TortieError):
        return unknown("the datastore does not answer")
    known = [one for one in found.of("IPPool") if isinstance(one, IPPool)]
    if not known:
        return warning("there is no IPPool: no workload gets an address", "tortie apply one")
    prefixes = host.interface_prefixes
    for link in interfaces():
        for address in link.addresses:
            for pool in known:
                own = Network(address.address.family, address.address.value, address.address.bits)
                if not link.name.startswith(prefixes) and parse_network(pool.spec.cidr).contains(
                    own
                ):
                    return problem(
                        f"IPPool {pool.metadata.name} ({pool.spec.cidr}) holds {address.address} "
                        f"of {link.name}",
                        "pools are for workloads alone: make one elsewhere, then delete this one",
                    )
    return good(f"{len(known)} pools, none of them in use by this machine itself")


def peers(host: Host) -> Finding:
    """A route to each other host's address."""
    found = host.cluster
    if isinstance(found, TortieError):
        return unknown("the datastore does not answer")
    others = [one for one in _addresses(found) if one[0] != host.name]
    lost = [
        f"{name} ({address})"
        for name, address in others[:PEERS_MAX]
        if source_towards(address.address_text, address.family) is None
    ]
    if lost:
        return problem(
            f"no route to {', '.join(lost[:5])}",
            "add one, or correct these nodes' addresses: tortie get nodes -o wide",
        )
    return good(f"routes to {min(len(others), PEERS_MAX)} addresses of other hosts")


def _addresses(cluster: Cluster) -> list[tuple[str, Network]]:
    found = []
    for one in cluster.of("Node"):
        assert isinstance(one, Node)
        bgp = one.spec.bgp
        for text in (bgp.ipv4_address, bgp.ipv6_address) if bgp else ():
            if text:
                found.append((one.metadata.name, parse_address(text.partition("/")[0])))
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
