"""The plugin's other name: IPAM alone, for main plugins of others; and pools by name or CIDR."""

from collections.abc import Collection

from tortie.attach.attacher import Attacher
from tortie.attach.cni import identity
from tortie.attach.cni.failure import BAD_CONFIG, CNIFailure
from tortie.attach.cni.netconf import Call
from tortie.attach.cni.result import ipam_result
from tortie.datastore.client import Client
from tortie.ipam.audit import FOREIGN
from tortie.ipam.stored import list_resources
from tortie.lib.errors import InvalidInput, NotFound
from tortie.model.keys import IPAM, HandleKey, parse_key
from tortie.model.node import IPPool


async def pool_names(client: Client, wanted: Collection[str]) -> tuple[str, ...]:
    """Pools by name, from names and CIDRs.

    Raises:
        InvalidInput: there is no such pool.
    """
    if not wanted:
        return ()
    pools = [found.value for found in await list_resources(client, IPPool, "IPPool")]
    by_text = {}
    for pool in pools:
        if pool is not None:
            by_text[pool.metadata.name] = by_text[pool.spec.cidr] = pool.metadata.name
    unknown = sorted(set(wanted) - by_text.keys())
    if unknown:
        known = ", ".join(sorted(by_text)) or "none"
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise InvalidInput(
            f"there is no IPPool {', '.join(map(repr, unknown[:8]))}{more}; there are: {known}"
        )
    return tuple(dict.fromkeys(by_text[text] for text in wanted))


class IPAMService:
    """Addresses by container, without an endpoint."""

    def __init__(self, attacher: Attacher, client: Client) -> None:
        self._attacher = attacher
        self._client = client

    async def act(self, call: Call) -> bytes | None:
        """
        Raises:
            TortieError: a DEL that may succeed later (`retryable`) is the caller's to keep.
        """
        allocator, handle = self._attacher.allocator, identity.handle_of(call)
        if call.command in ("DEL", "GC"):
            await self._attacher.check_ready()
        if call.command == "ADD":
            request = identity.add_of(call, self._attacher.interface_prefix)
            found = await allocator.assign(
                request.families,
                handle,
                {
                    "namespace": request.namespace,
                    "pod": request.pod or request.workload,
                    "attachment": FOREIGN,
                },
                requested=request.requested,
                pools=await pool_names(self._client, request.pools),
            )
            return ipam_result(found, call.config.version)
        if call.command == "DEL":
            await allocator.release(handle, only_host=True)
        elif call.command == "CHECK":
            if not await allocator.addresses_of(handle):
                raise NotFound(f"container {call.container_id} holds no address")
        else:
            await self._collect(call)
        return None

    async def _collect(self, call: Call) -> None:
        valid = {container for container, _ in valid_attachments(call)}
        attached = {entry.handle_id for entry in self._attacher.entries}
        prefix = f"{call.config.name}."
        listing = await self._client.list(f"{IPAM}handle/{prefix}", keys_only=True)
        for entry in listing.entries:
            key = parse_key(entry.key)
            if not isinstance(key, HandleKey) or key.handle_id in attached:
                continue
            container = key.handle_id.removeprefix(prefix)
            # With a dot it may be a container of network `<name>.<more>` as well.
            if container not in valid and "." not in container:
                await self._attacher.allocator.release(key.handle_id, only_host=True)


def valid_attachments(call: Call) -> set[tuple[str, str]]:
    """
    Raises:
        CNIFailure: the runtime did not say; then everything would be a leak.
    """
    attachments = call.config.valid_attachments
    if attachments is None:
        raise CNIFailure(BAD_CONFIG, "GC needs cni.dev/valid-attachments in the configuration")
    return {(found.container_id, found.ifname) for found in attachments}
