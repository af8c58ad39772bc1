"""What only the master does beside resyncs: settings for the agents, and etcd's history.

Each write has the master's guard among its compares. Whatever an operator or another
orchestrator has set stays: only what is missing is added.

Source: Calico, networking-calico, resync/scope.py and drivers/calico/mech_calico.py.
"""

import logging
import os
import uuid
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import msgspec

from tortie.datastore.client import Operation, Put, Txn, unchanged
from tortie.lib.errors import Conflict, Denied
from tortie.model import codec
from tortie.model.felix_configuration import FelixConfiguration
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata, Resource
from tortie.model.node import ClusterInformation
from tortie.model.policy import Tier, TierSpec
from tortie.model.validation.policy import FIXED_TIERS
from tortie.openstack.settings import Settings
from tortie.openstack.store import Change, Guard, NotMaster, Store, encoded

log = logging.getLogger(__name__)

TRIGGER_KEY = "/calico/compaction/v1/trigger"
"""Its lease is the time until compaction is looked at again; the value is a pid."""
LAST_KEY = "/calico/compaction/v1/last"
"""The revision that was compacted last; its own mod_revision is when that was looked at."""

ROUNDS = 20

WORKLOAD_PREFIXES = ("cali", "tap")

R = TypeVar("R", bound=Resource)


def prepare_cluster(store: Store, settings: Settings) -> tuple[str, ...]:
    """What agents need to work for OpenStack at all, where nobody has said it.

    Returns:
        What is set otherwise than this region would need it, one text each.
    """
    for name, (order, action) in FIXED_TIERS.items():
        spec = TierSpec(order=order, default_action="Pass" if action == "Pass" else "Deny")
        _amend(store, Tier(metadata=Metadata(name=name), spec=spec), lambda tier: tier)
    cluster = _amend(store, ClusterInformation(metadata=Metadata(name="default")), _cluster)
    alone = cluster.spec.cluster_type == "openstack"
    felix = _amend(
        store,
        FelixConfiguration(metadata=Metadata(name="default")),
        lambda found: _felix(found, settings, alone=alone),
    )
    return _differences(felix, settings)


def _cluster(found: ClusterInformation) -> ClusterInformation:
    spec = found.spec
    types = [word for word in spec.cluster_type.split(",") if word]
    if "openstack" not in types:
        types.append("openstack")
    changed = msgspec.structs.replace(
        spec,
        cluster_guid=spec.cluster_guid or uuid.uuid4().hex,
        cluster_type=",".join(types),
        # False is somebody's decision: a migration is going on.
        datastore_ready=True if spec.datastore_ready is None else spec.datastore_ready,
    )
    return msgspec.structs.replace(found, spec=changed)


def _felix(found: FelixConfiguration, settings: Settings, *, alone: bool) -> FelixConfiguration:
    """
    Args:
        alone: no other orchestrator uses this datastore.
    """
    spec = found.spec
    prefixes = [word for word in (spec.interface_prefix or "").split(",") if word]
    if not prefixes:
        prefixes = [*WORKLOAD_PREFIXES]
    elif "tap" not in prefixes:
        prefixes.append("tap")
    spoofing = spec.workload_source_spoofing
    changed = msgspec.structs.replace(
        spec,
        endpoint_reporting_enabled=True,
        interface_prefix=",".join(prefixes),
        openstack_region=spec.openstack_region or settings.openstack_region,
        # Neutron decides who may have port security off. Elsewhere workloads' owners would.
        workload_source_spoofing=spoofing or ("Any" if alone else None),
    )
    return msgspec.structs.replace(found, spec=changed)


def _differences(felix: FelixConfiguration, settings: Settings) -> tuple[str, ...]:
    found = []
    if (felix.spec.openstack_region or None) != (settings.openstack_region or None):
        found.append(
            f"FelixConfiguration(default): spec.openstackRegion is "
            f"{felix.spec.openstack_region!r}, so the agents of region "
            f"{settings.openstack_region!r} must be told theirs in their own configuration"
        )
    if felix.spec.workload_source_spoofing != "Any":
        found.append(
            "FelixConfiguration(default): spec.workloadSourceSpoofing is not Any, so neither "
            "allowed address pairs that are networks nor disabled port security let other "
            "sources out"
        )
    return tuple(found)


def _amend(store: Store, missing: R, amend: Callable[[R], R]) -> R:
    """Change a resource, or create it, by compare-and-swap; write nothing if nothing changes.

    Raises:
        InvalidInput: what is stored cannot be read, so it is left as it is.
        Conflict: others change it all the time.
    """
    kind = type(missing).__name__
    key = ResourceKey(kind, missing.metadata.name)
    missing = msgspec.structs.replace(missing, kind=kind)
    for _ in range(ROUNDS):
        entry = store.read([key.path])[key.path]
        before = cast(R, codec.decode(key, entry.value)) if entry is not None else None
        after = amend(before if before is not None else missing)
        if after == before:
            return after
        revision, previous = (entry.mod_revision, entry.value) if entry is not None else (0, b"")
        value = encoded(key.path, after, previous)
        if not store.write([Change(key.path, revision, value)]):
            return after
    raise Conflict(f"{key} is being changed by others all the time")


class Compaction(NamedTuple):
    """What was done about etcd's history."""

    done: bool
    why: str


def compact(store: Store, guard: Guard, settings: Settings) -> Compaction:
    """Forget history, when it is time to: call it every minute or so.

    Kept are the last `etcd_compaction_min_revisions`, and everything since the look before.

    Raises:
        NotMaster: the guard does not hold.
    """
    period_seconds = settings.etcd_compaction_period_mins * 60
    if not period_seconds:
        return Compaction(False, "switched off")
    gateway = store.gateway
    found = store.read([TRIGGER_KEY, LAST_KEY])
    trigger, last = found[TRIGGER_KEY], found[LAST_KEY]
    if trigger is not None and trigger.lease and last is not None:
        return Compaction(False, "not time yet")
    now = gateway.revision()
    before = _revision_of(last.value) if last is not None else None
    keep_from = last.mod_revision if last is not None else now
    revision = min(now - settings.etcd_compaction_min_revisions, keep_from)
    done = False
    if last is None or before is None or before > now or trigger is not None:
        # The first look, or keys that a restored backup has left behind.
        before, why = 0, "first look"
    elif revision <= max(before, 0):
        why = "no history to forget"
    else:
        guards = list(guard())
        if guards and not gateway.transact(Txn(guards)).succeeded:
            raise NotMaster("this server is no longer the master")
        try:
            done = gateway.compact(revision)
            before, why = (revision, "done") if done else (now, "others have compacted")
        except Denied as error:
            why = (
                f"not permitted, let etcd compact by itself (--auto-compaction-retention): {error}"
            )
    lease = gateway.grant(period_seconds)
    keys: list[Operation] = [
        Put(LAST_KEY, str(before).encode()),
        Put(TRIGGER_KEY, str(os.getpid()).encode(), lease),
    ]
    same = unchanged(LAST_KEY, last.mod_revision if last is not None else 0)
    if not gateway.transact(Txn([*guard(), same], keys)).succeeded:
        gateway.revoke(lease)
        return Compaction(done, "another server was faster")
    return Compaction(done, why)


def _revision_of(value: bytes) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None
