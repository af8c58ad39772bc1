"""Resources over a datastore client: the rules about one object and the others.

What one object must be like is `tortie.model.validation`'s business and is checked by every
write here. The rest is here: names, uids and times are given at creation, a policy's tier must
exist, pools must not overlap, three tiers are always there. Each write is one transaction that
compares what it rests on; where that is not possible (overlap of pools, an empty tier), two
writers within the same few milliseconds can slip past each other, as in Calico.

Source: Calico, libcalico-go/lib/clientv3.
"""

import contextlib
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Generic, NamedTuple, TypeVar, cast

import msgspec

from tortie.datastore import pool_rules
from tortie.datastore.client import Client, Compare, Delete, Entry, Put, Txn, present, unchanged
from tortie.lib.errors import AlreadyExists, Conflict, InvalidField, InvalidInput, NotFound
from tortie.lib.ip import parse_network
from tortie.model import codec
from tortie.model.catalogue import TYPES
from tortie.model.keys import IPAM, PLURALS, RESOURCES, BlockKey, ResourceKey, parse_key
from tortie.model.metadata import Metadata, Resource
from tortie.model.node import ClusterInformation, ClusterInformationSpec, IPPool
from tortie.model.policy import (
    DEFAULT_ALLOW_PROFILE,
    DEFAULT_TIER,
    NetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    Tier,
    TierSpec,
)
from tortie.model.validation import check, with_defaults
from tortie.model.validation.policy import FIXED_TIERS

ATTEMPTS = 10
"""Tries of a write without a resourceVersion against other writers."""

R_co = TypeVar("R_co", bound=Resource, covariant=True)
R = TypeVar("R", bound=Resource)


class Stored(NamedTuple, Generic[R_co]):
    """A resource as read."""

    resource: R_co
    """With `metadata.resource_version` set."""
    revision: int
    """Of its last write; 0 for what is built in."""
    path: str = ""
    """Where it is stored; old policies are not where their name says."""
    raw: bytes = b""
    """As stored, unknown fields included."""


class Write(NamedTuple, Generic[R_co]):
    """A resource on its way: one put, and what must hold for it."""

    resource: R_co
    path: str
    raw: bytes
    previous: bytes
    """What was stored; empty for a new one."""
    compares: Sequence[Compare]


class Found(NamedTuple):
    """All resources of a kind as of one revision, by namespace and name."""

    items: Sequence[Stored[Resource]]
    unreadable: Sequence[str]
    """What is wrong with those left out, one text each."""
    revision: int


DEFAULT_ALLOW = Profile(
    kind="Profile",
    metadata=Metadata(name=DEFAULT_ALLOW_PROFILE),
    spec=ProfileSpec(ingress=(Rule(action="Allow"),), egress=(Rule(action="Allow"),)),
)
"""The built-in profile; listed and read like any other, stored nowhere."""


class Resources:
    """Reads and writes resources; holds no state, so it may be shared in one event loop.

    Every method may raise what the client's methods raise.
    """

    def __init__(
        self, client: Client, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._now = now

    @property
    def client(self) -> Client:
        """For what is stored beside resources."""
        return self._client

    # --- reading ---

    async def get(self, key: ResourceKey) -> Stored[Resource]:
        """
        Raises:
            NotFound: it does not exist.
            InvalidInput: what is stored there is not valid.
        """
        if key == _DEFAULT_ALLOW_KEY:
            return Stored(DEFAULT_ALLOW, 0)
        return _stored(await self.get_entry(key))

    async def get_entry(self, key: ResourceKey) -> Entry:
        """What is stored, readable or not.

        Raises:
            NotFound: it does not exist.
        """
        entry = await self._entry(key)
        if entry is None:
            raise NotFound(f"{key} does not exist")
        return entry

    async def list(self, kind: str, namespace: str | None = None) -> Found:
        """
        Args:
            namespace: only those in it; None means all.
        """
        scope = f"{namespace}/" if namespace else ""
        listing = await self._client.list(f"{RESOURCES}{PLURALS[kind]}/{scope}")
        items: list[Stored[Resource]] = []
        unreadable: list[str] = []
        for entry in listing.entries:
            try:
                items.append(_stored(entry))
            except InvalidInput as error:
                unreadable.append(str(error))
        if kind == "Profile":
            items.append(Stored(DEFAULT_ALLOW, 0))
        items.sort(key=lambda s: (s.resource.metadata.namespace, s.resource.metadata.name))
        return Found(items, unreadable, listing.revision)

    async def all_of(self, struct: type[R], namespace: str | None = None) -> "Sequence[R]":
        """The readable resources of a kind, by its struct."""
        found = await self.list(struct.__name__, namespace)
        return [cast(R, stored.resource) for stored in found.items]

    # --- writing ---

    async def create(self, resource: R, *, look_first: bool = True) -> Stored[R]:
        """Store a new one, with a uid and a creation time of its own.

        Args:
            look_first: False: the caller knows that it is not there; if it is, the write tells.

        Raises:
            InvalidInput: it breaks a rule; nothing is written.
            AlreadyExists: its name is taken.
        """
        resource = _complete(resource)
        key = key_of(resource)
        if key.kind == "Node":
            # For who protects hosts only, a node is the first thing that he ever creates.
            await self.ensure_initialized()
        if resource.metadata.resource_version:
            raise InvalidInput(f"{key}: metadata.resourceVersion must not be given to create it")
        if look_first and await self._entry(key) is not None:
            raise AlreadyExists(f"{key} already exists")
        return await self._commit(await self._creation(resource))

    async def update(self, resource: R) -> Stored[R]:
        """Replace an existing one; its uid, creation time, status and unknown fields stay.

        With `metadata.resource_version` set, only that version is replaced; without, whatever
        is there.

        Raises:
            InvalidInput: it breaks a rule, or changes what cannot change; nothing is written.
            NotFound: it does not exist.
            Conflict: it was changed since `resource_version`.
        """
        resource = _complete(resource)
        key = key_of(resource)
        for _ in range(ATTEMPTS):
            entry = await self._entry(key)
            if entry is None:
                raise NotFound(f"{key} does not exist")
            wanted = resource.metadata.resource_version
            if wanted not in ("", str(entry.mod_revision)):
                raise Conflict(
                    f"{key} was changed since it was read: it is at resourceVersion "
                    f"{entry.mod_revision}, not {wanted}; read it again"
                )
            try:
                return await self._replace(resource, entry)
            except Conflict:
                if wanted:
                    raise
        raise Conflict(f"{key} is being changed by others all the time; try again")

    async def apply(self, resource: R) -> Stored[R]:
        """Create or update, whichever it needs; see there. Writes nothing that is there already."""
        for _ in range(ATTEMPTS):
            try:
                return await self.update(resource)
            except NotFound:
                pass
            try:
                return await self.create(_without_version(resource))
            except AlreadyExists:
                continue
        raise Conflict(f"{key_of(resource)} comes and goes; try again")

    async def prepare(self, resource: R, there: Stored[Resource] | None) -> Write[R] | None:
        """What `apply` would write if `there` is what is stored; None if that is the same already.

        `resource` must be complete and valid, as what `documents` reads is: it is not checked
        again, beyond what it needs others for. For `bulk`, which writes many together.

        Raises:
            InvalidInput: too large, or a pool that overlaps.
        """
        if there is None:
            return await self._creation(resource)
        resource = _continued(resource, there.resource)
        compares = [unchanged(there.path, there.revision), *await self._compares(resource)]
        write = _write(there.path, resource, there.raw, compares)
        return None if write.raw == there.raw else write

    async def check_together(self, resources: Sequence[Resource]) -> None:
        """Check what is to be written together, before any of it is written.

        The same rules as for each alone, but they may rest on one another: a policy on a tier
        that comes with it.

        Raises:
            InvalidInput: two of them have one name, or overlap, or a tier is missing.
        """
        seen: set[ResourceKey] = set()
        pools: list[IPPool] = []
        for resource in resources:
            key = key_of(resource)
            if key in seen:
                raise InvalidInput(f"{key} is there twice")
            seen.add(key)
        tiers = {key.name for key in seen if key.kind == "Tier"}
        filters = {key.name for key in seen if key.kind == "BGPFilter"}
        for resource in resources:
            tier = _tier_of(resource)
            if tier is not None and tier not in tiers:
                await self._check_tier(resource)
                tiers.add(tier)
            await self._check_filters(resource, filters)
            if isinstance(resource, IPPool):
                pool_rules.check_disjoint(resource, pools)
                pools.append(resource)
                await self._check_pool(resource)

    async def check_revision(self, key: ResourceKey, revision: int) -> None:
        """
        Raises:
            NotFound: it does not exist.
            Conflict: it was changed since `revision`.
        """
        if (await self.get_entry(key)).mod_revision != revision:
            raise Conflict(f"{key} was changed by another writer; read it again")

    async def delete(self, key: ResourceKey, revision: int | None = None) -> None:
        """Delete it, if `revision` is given only that version; what it holds stays.

        Pools and nodes hold something: `tortie.ipam.deletion` sees to that.

        Raises:
            NotFound: it does not exist.
            InvalidInput: it must not be deleted: a built-in tier or profile, a tier in use.
            Conflict: it was changed since `revision`.
        """
        if key == _DEFAULT_ALLOW_KEY:
            raise InvalidInput(f"{key} is built in and cannot be deleted")
        entry = await self._entry(key)
        if entry is None:
            raise NotFound(f"{key} does not exist")
        if key.kind == "Tier":
            await self._check_tier_unused(key)
        compares = [present(entry.key)]
        if revision is not None:
            compares.append(unchanged(entry.key, revision))
        result = await self._client.transact(Txn(compares, [Delete(entry.key)]))
        if not result.succeeded:
            raise Conflict(f"{key} was changed by another writer; read it again")

    async def ensure_initialized(self, cluster_type: str = "") -> None:
        """Create what every cluster has, where it is missing: three tiers and the ready flag."""
        for name, (order, action) in FIXED_TIERS.items():
            spec = TierSpec(order=order, default_action="Pass" if action == "Pass" else "Deny")
            await self._create_if_missing(Tier(metadata=Metadata(name=name), spec=spec))
        cluster = ClusterInformation(
            metadata=Metadata(name="default"),
            spec=ClusterInformationSpec(
                cluster_guid=uuid.uuid4().hex, cluster_type=cluster_type, datastore_ready=True
            ),
        )
        if not await self._create_if_missing(cluster) and cluster_type:
            await self._merge_cluster_type(cluster_type)

    # --- how ---

    async def _entry(self, key: ResourceKey) -> Entry | None:
        entry = await self._client.get(key.path)
        if entry is not None or key.kind not in codec.POLICY_KINDS:
            return entry
        # Before v3.32 a policy of tier default had the tier's name in its key.
        old = msgspec.structs.replace(key, name=f"{DEFAULT_TIER}.{key.name}")
        entry = await self._client.get(old.path)
        try:
            is_it = entry is not None and _stored(entry).resource.metadata.name == key.name
        except InvalidInput:
            is_it = False
        return entry if is_it else None

    async def _create_if_missing(self, resource: Resource) -> bool:
        """Whether it was missing."""
        if await self._entry(key_of(_complete(resource))) is None:
            # Whoever is faster writes the same.
            with contextlib.suppress(AlreadyExists):
                await self.create(resource)
                return True
        return False

    async def _merge_cluster_type(self, cluster_type: str) -> None:
        """Add words to the list of what runs here; nobody takes any away."""
        for _ in range(ATTEMPTS):
            found = await self.get(ResourceKey("ClusterInformation", "default"))
            cluster = cast(ClusterInformation, found.resource)
            words = [word for word in cluster.spec.cluster_type.split(",") if word]
            missing = [word for word in cluster_type.split(",") if word and word not in words]
            if not missing:
                return
            spec = msgspec.structs.replace(cluster.spec, cluster_type=",".join([*words, *missing]))
            with contextlib.suppress(Conflict):
                await self.update(msgspec.structs.replace(cluster, spec=spec))
                return
        raise Conflict("ClusterInformation(default) is being changed all the time; try again")

    async def _replace(self, resource: R, entry: Entry) -> Stored[R]:
        try:
            before = _stored(entry).resource
        except InvalidInput:
            before = None  # replacing what nobody can read is how to repair it
        compares = await self._compares(resource)
        if before is not None:
            resource = _continued(resource, before)
        compares = [unchanged(entry.key, entry.mod_revision), *compares]
        return await self._commit(_write(entry.key, resource, entry.value, compares))

    async def _creation(self, resource: R) -> Write[R]:
        path = key_of(resource).path
        metadata = msgspec.structs.replace(
            resource.metadata,
            uid=str(uuid.uuid4()),
            creation_timestamp=self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        compares = [unchanged(path, 0), *await self._compares(resource)]
        return _write(path, msgspec.structs.replace(resource, metadata=metadata), b"", compares)

    async def _commit(self, write: Write[R]) -> Stored[R]:
        path, resource, raw = write.path, write.resource, write.raw
        if raw == write.previous:
            revision = next(int(c.operand) for c in write.compares if c.key == path)
            return Stored(_with_version(resource, revision), revision, path, raw)
        result = await self._client.transact(Txn(write.compares, [Put(path, raw)]))
        if result.succeeded:
            return Stored(_with_version(resource, result.revision), result.revision, path, raw)
        await self._check_tier(resource)
        await self._check_filters(resource)
        if write.previous:
            raise Conflict(f"{key_of(resource)} was changed by another writer; read it again")
        raise AlreadyExists(f"{key_of(resource)} already exists")

    async def _compares(self, resource: Resource) -> Sequence[Compare]:
        """What else must hold for the write: compared in the transaction, else checked now."""
        if isinstance(resource, IPPool):
            await self._check_pool(resource)
        tier = _tier_of(resource)
        tiers = [] if tier is None else [ResourceKey("Tier", tier)]
        filters = [ResourceKey("BGPFilter", name) for name in dict.fromkeys(_filters_of(resource))]
        return [present(key.path) for key in (*tiers, *filters)]

    async def _check_tier(self, resource: Resource) -> None:
        tier = _tier_of(resource)
        if tier is not None and not await self._exists(ResourceKey("Tier", tier)):
            tiers = await self.list("Tier")
            names = ", ".join(stored.resource.metadata.name for stored in tiers.items) or "none"
            rule = f"there is no tier {tier!r}; create it first (there are: {names})"
            raise InvalidField(key_of(resource), "spec.tier", rule)

    async def _check_filters(self, resource: Resource, coming: Collection[str] = ()) -> None:
        """
        Args:
            coming: filters that are written before it.
        """
        for index, name in enumerate(_filters_of(resource)):
            if name not in coming and not await self._exists(ResourceKey("BGPFilter", name)):
                rule = f"there is no BGPFilter {name!r}; create it first"
                raise InvalidField(key_of(resource), f"spec.filters[{index}]", rule)

    async def _exists(self, key: ResourceKey) -> bool:
        return await self._client.get(key.path) is not None

    async def _check_tier_unused(self, key: ResourceKey) -> None:
        if key.name in FIXED_TIERS:
            raise InvalidInput(f"{key} is built in and cannot be deleted")
        for kind in sorted(codec.POLICY_KINDS):
            for stored in (await self.list(kind)).items:
                if _tier_of(stored.resource) == key.name:
                    policy = key_of(stored.resource)
                    raise InvalidInput(
                        f"{key} is not empty: {policy} is in it; delete its policies first"
                    )

    async def _check_pool(self, pool: IPPool) -> None:
        pools = [cast(IPPool, stored.resource) for stored in (await self.list("IPPool")).items]
        before = [other for other in pools if other.metadata.name == pool.metadata.name]
        if before:
            pool_rules.check_change(pool, before[0])
            return
        pool_rules.check_disjoint(pool, pools)
        network = parse_network(pool.spec.cidr)
        prefix = f"{IPAM}assignment/ipv{network.family}/block/"
        for entry in (await self._client.list(prefix, keys_only=True)).entries:
            block = parse_key(entry.key)
            if not isinstance(block, BlockKey) or not network.contains(block.cidr):
                continue
            if block.cidr.length != pool.spec.block_size:
                rule = f"{pool.spec.block_size}, but the block {block.cidr} is still there"
                raise InvalidField(key_of(pool), "spec.blockSize", rule)


def key_of(resource: Resource) -> ResourceKey:
    """Where a resource with its kind filled in belongs."""
    return ResourceKey(resource.kind, resource.metadata.name, resource.metadata.namespace)


_DEFAULT_ALLOW_KEY = ResourceKey("Profile", DEFAULT_ALLOW_PROFILE)


def _tier_of(resource: Resource) -> str | None:
    """Of policies, staged ones too."""
    spec = getattr(resource, "spec", None)
    return spec.tier if isinstance(spec, NetworkPolicySpec) else None


def _filters_of(resource: Resource) -> Sequence[str]:
    """Names of the BGPFilters that it names."""
    if resource.kind != "BGPPeer":
        return ()
    filters: Sequence[str] = resource.spec.filters  # type: ignore[attr-defined]
    return filters


def _stored(entry: Entry) -> Stored[Resource]:
    key = parse_key(entry.key)
    if not isinstance(key, ResourceKey) or key.kind not in TYPES:
        raise InvalidInput(f"{entry.key}: is not where a resource is stored")
    resource = codec.decode(key, entry.value)
    revision = entry.mod_revision
    return Stored(_with_version(resource, revision), revision, entry.key, entry.value)


def _write(path: str, resource: R, previous: bytes, compares: Sequence[Compare]) -> Write[R]:
    """
    Raises:
        InvalidInput: it is too large.
    """
    key = parse_key(path)
    assert isinstance(key, ResourceKey)  # it came from one
    raw = codec.encode(key, resource, previous)
    if len(raw) > codec.VALUE_MAX_BYTES:
        raise InvalidInput(f"{key}: {len(raw)} bytes, more than {codec.VALUE_MAX_BYTES}")
    return Write(resource, path, raw, previous, compares)


def _complete(resource: R) -> R:
    resource = with_defaults(resource)
    check(resource)
    return resource


def _with_version(resource: R, revision: int) -> R:
    metadata = msgspec.structs.replace(resource.metadata, resource_version=str(revision))
    return msgspec.structs.replace(resource, metadata=metadata)


def _without_version(resource: R) -> R:
    metadata = msgspec.structs.replace(resource.metadata, resource_version="")
    return msgspec.structs.replace(resource, metadata=metadata)


def _continued(resource: R, before: Resource) -> R:
    """With what the datastore owns: identity, time of creation, status."""
    metadata = msgspec.structs.replace(
        resource.metadata,
        uid=before.metadata.uid or resource.metadata.uid,
        creation_timestamp=before.metadata.creation_timestamp,
    )
    resource = msgspec.structs.replace(resource, metadata=metadata)
    status = getattr(before, "status", None)
    if status and not getattr(resource, "status", None):
        resource = msgspec.structs.replace(resource, status=status)
    return resource
