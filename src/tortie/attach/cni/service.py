"""CNI in the agent: what ADD, DEL, CHECK, STATUS and GC do.

The plugin hands over what the runtime gave it, and prints what comes back. What is attached
stands in the attach journal, with its container and network; so GC and a DEL that knows less
than its ADD did need nothing else.

DELs that no agent was there for, or that IPAM alone could not do while the datastore was away or
locked, wait in the spool (`spool`); it is worked off before anything new is attached.
"""

import contextlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tortie.attach.attacher import Attacher
from tortie.attach.cni import identity
from tortie.attach.cni.failure import (
    BAD_CONFIG,
    NOT_AVAILABLE,
    NOT_IN_PLACE,
    TRY_AGAIN_LATER,
    CNIFailure,
    encode_failure,
    failure_of,
)
from tortie.attach.cni.ipam import IPAMService, pool_names, valid_attachments
from tortie.attach.cni.netconf import DELEGATES, Call, parse_call, version_of
from tortie.attach.cni.pod_cidr import wanted_families, with_pod_cidrs
from tortie.attach.cni.pods import PodSource
from tortie.attach.cni.result import attached_result, parse_addresses
from tortie.attach.cni.spool import Spool
from tortie.attach.journal import Entry
from tortie.attach.requests import (
    Check,
    Cni,
    Remove,
    check_request,
)
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.kernel import netns
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound, TortieError, Unavailable
from tortie.lib.ip import parse_network
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.policy import EntityRule, Profile, ProfileSpec, Rule
from tortie.model.validation import check

if TYPE_CHECKING:
    from tortie.attach.cni.kubernetes import Sources

log = logging.getLogger(__name__)

MTU_FILE = Path("/var/lib/calico/mtu")
"""Written by Calico's node; a network may insist on it (`require_mtu_file`)."""


class CniService:
    """Answers `requests.Cni`; one event loop only."""

    def __init__(
        self,
        attacher: Attacher,
        client: Client,
        spool: Path,
        pods: Callable[[Path], PodSource] | None = None,
    ) -> None:
        """
        Args:
            pods: who describes pods, by kubeconfig; None: its API server.
        """
        self._attacher = attacher
        self._pods = pods or _api_servers()
        self._client = client
        self._ipam = IPAMService(attacher, client)
        self._resources = Resources(client)
        self._spool = Spool(spool, lambda request: self._act(parse_call(request)))
        self._profiles: set[str] = set()
        """Known to exist. One that is deleted by hand is made again after a restart."""

    async def answer(self, request: Cni, pid: int = 0) -> bytes:
        """One line: `{"result":…}`, `{"error":…}` or `{"delegate":…}`, perhaps with the
        `config` that this one is to be run with.

        Args:
            pid: of the plugin that asks, and waits for the answer.
        """
        call = None
        try:
            call = parse_call(request)
            call = call._replace(netns_here=seen_by(pid, call.netns, request.handle))
            if wants_delegate(call):
                return await self._delegate(call, request.config)
            result = await self._act_or_keep(call, request)
        except TortieError as error:
            failure = _in_terms_of(call, failure_of(error))
            found = encode_failure(failure, version_of(request.config))
            return b'{"error":' + found + b"}\n"
        return b'{"result":' + (result or b"null") + b"}\n"

    async def run(self) -> None:
        """Work off removals that have to wait, for ever."""
        await self._spool.run()

    async def _act_or_keep(self, call: Call, request: Cni) -> bytes | None:
        """A removal that has no attach journal is kept until it can be done."""
        try:
            return await self._act(call)
        except TortieError as error:
            if not (call.is_ipam and call.command == "DEL" and error.retryable):
                raise
            log.warning("handle %s: released later: %s", identity.handle_of(call), error)
            await self._spool.keep(request)
            return None

    async def _delegate(self, call: Call, config: str) -> bytes:
        answer = {"delegate": call.config.ipam_type}
        if call.command in ("DEL", "GC", "STATUS"):
            # First ours: when nothing delivers to an address any more it may be free.
            await self._act(call)
        elif wanted_families(config):
            answer["config"] = await self._with_pod_cidrs(call, config)
        return msgspec.json.encode(answer) + b"\n"

    async def _with_pod_cidrs(self, call: Call, config: str) -> str:
        """
        Raises:
            CNIFailure: nobody says what this node's subnets are.
        """
        if not call.config.kubeconfig:
            raise CNIFailure(
                BAD_CONFIG,
                "usePodCidr needs kubernetes.kubeconfig: the API server says what this node's is",
            )
        kubernetes = call.config.kubernetes
        node = (kubernetes.node_name if kubernetes else "") or self._attacher.host
        try:
            cidrs = await self._source(call).pod_cidrs(node)
        except Unavailable as error:
            raise CNIFailure(TRY_AGAIN_LATER, f"node {node}: {error}") from None
        except NotFound as error:
            hint = "name it in kubernetes.node_name"
            raise CNIFailure(BAD_CONFIG, f"usePodCidr: {error}; {hint}") from None
        return with_pod_cidrs(config, node, cidrs)

    def _source(self, call: Call) -> PodSource:
        """
        Raises:
            CNIFailure: the kubeconfig cannot be used.
        """
        try:
            return self._pods(Path(call.config.kubeconfig))
        except (NotFound, InvalidInput) as error:
            raise CNIFailure(BAD_CONFIG, f"kubernetes.kubeconfig: {error}") from None

    async def _act(self, call: Call) -> bytes | None:
        if call.command == "ADD":
            await self._attacher.check_ready()  # nothing at all is written before
        if call.command in ("ADD", "GC"):
            await self._spool.work_off()
        if call.command == "ADD" and call.container_id in self._spool.waiting:
            raise Unavailable(f"container {call.container_id} is still to be removed; try again")
        if call.command == "STATUS":
            await self._status()
        elif call.is_ipam:
            return await self._ipam.act(call)
        elif call.command == "ADD":
            return await self._add(call)
        elif call.command == "DEL":
            await self._delete(call)
        elif call.command == "CHECK":
            await self._check(call)
        else:
            await self._collect(call)
        return None

    async def _add(self, call: Call) -> bytes:
        if call.config.nodename and call.config.nodename != self._attacher.host:
            raise CNIFailure(
                BAD_CONFIG,
                f"nodename is {call.config.nodename!r}, and the agent of this host is "
                f"{self._attacher.host!r}; leave nodename out, or name the agent so",
            )
        call = await self._described(call)
        request = identity.add_of(call, self._attacher.interface_prefix, _mtu(call))
        if call.delegated is not None:
            texts = tuple(found.address_text for found in parse_addresses(call.delegated))
            request = msgspec.structs.replace(request, addresses=texts, ipam=False)
        else:
            pools = await pool_names(self._client, request.pools)
            request = msgspec.structs.replace(request, pools=pools)
        try:
            check_request(request)
        except InvalidInput as error:
            raise CNIFailure(BAD_CONFIG, str(error)) from None
        there = self._entry(call)
        if there and there.phase == "attached" and there.network not in ("", call.config.name):
            await self._ensure_profiles(call, request.profiles)
            attached = await self._attacher.add_profiles(there.key, request.profiles)
        else:
            await self._ensure_profiles(call, request.profiles)
            attached = await self._attacher.add(request)
        return attached_result(attached, call.config.version, call.netns)

    async def _described(self, call: Call) -> Call:
        """With what the API server says of the pod, where the configuration names one.

        Raises:
            CNIFailure: it does not say; then nothing may be made.
        """
        if call.pod is None or not call.config.kubeconfig:
            return call
        source = self._source(call)
        try:
            pod = await source.pod(*call.pod)
        except Unavailable as error:
            raise CNIFailure(TRY_AGAIN_LATER, f"pod {'/'.join(call.pod)}: {error}") from None
        wanted = call.args.get("K8S_POD_UID", "")
        if wanted and pod.uid and wanted != pod.uid:
            raise NotFound(f"pod {'/'.join(call.pod)} is another one by now: its uid is {pod.uid}")
        return call._replace(described=pod)

    async def _delete(self, call: Call) -> None:
        request = identity.remove_of(call)
        there = self._entry(call)
        if there is not None:  # it knows better than a DEL that lacks CNI_ARGS
            request = _removal(there)
        # The runtime ends the namespace next, and the link with it.
        request = msgspec.structs.replace(request, wait_for_link=False)
        await self._attacher.remove(request)

    async def _check(self, call: Call) -> None:
        there = self._entry(call)
        if there is None or there.phase != "attached":
            raise NotFound(
                f"container {call.container_id} has no interface {call.interface} of network "
                f"{call.config.name} here"
            )
        key = there.key
        found = await self._attacher.check(
            Check(
                namespace=key.namespace,
                workload=key.workload,
                orchestrator=key.orchestrator,
                endpoint=key.endpoint,
                netns=call.netns_here,
            )
        )
        problems = list(found.problems)
        if call.config.previous is not None:
            said = parse_addresses(msgspec.json.encode(call.config.previous))
            own = {parse_network(text) for text in there.addresses}
            problems += [f"prevResult lacks {a.address_text}" for a in sorted(own - set(said))]
        if problems:
            raise CNIFailure(NOT_IN_PLACE, "; ".join(problems))

    async def _status(self) -> None:
        """
        Raises:
            CNIFailure: an ADD would fail now.
        """
        try:
            await self._attacher.check_ready()
        except TortieError as error:
            raise CNIFailure(NOT_AVAILABLE, str(error)) from None

    async def _collect(self, call: Call) -> None:
        """GC: remove what this network attached here, unless the runtime knows it.

        An ADD that is still under way is nobody's leak, though the runtime may not list it.

        Raises:
            CNIFailure: some of it could not be removed; the rest was.
        """
        valid = valid_attachments(call)
        failed = []
        for entry in self._attacher.entries:
            known = (entry.container_id, entry.key.endpoint) in valid
            if entry.network != call.config.name or known or entry.phase == "adding":
                continue
            log.info("%s: the runtime no longer knows it", entry.key)
            try:
                await self._attacher.remove(_removal(entry))
            except TortieError as error:
                failed.append(f"{entry.key}: {error}")
        if failed:
            raise Unavailable("; ".join(failed))

    def _entry(self, call: Call) -> Entry | None:
        """What is recorded for this container and interface."""
        return self._attacher.entry_of(call.container_id, call.interface)

    async def _ensure_profiles(self, call: Call, wanted: Collection[str]) -> None:
        """Make the network's profile: its members reach one another, and out.

        Those of Kubernetes follow its namespaces; they are not ours to make.
        """
        if call.pod or call.config.name not in wanted or call.config.name in self._profiles:
            return
        name = call.config.name
        profile = Profile(
            kind="Profile",
            metadata=Metadata(name=name),
            spec=ProfileSpec(
                ingress=(Rule(action="Allow", source=EntityRule(selector=f"has({name})")),),
                egress=(Rule(action="Allow"),),
                labels_to_apply={name: ""},
            ),
        )
        check(profile)
        try:
            await self._resources.get(ResourceKey("Profile", name))
        except NotFound:
            with contextlib.suppress(AlreadyExists):
                await self._resources.create(profile)
        self._profiles.add(name)


def _api_servers() -> Callable[[Path], PodSource]:
    """Imports what speaks to them when the first is asked."""
    sources: Sources | None = None

    def of(file: Path) -> PodSource:
        nonlocal sources
        if sources is None:
            from tortie.attach.cni.kubernetes import Sources

            sources = Sources()
        return sources.of(file)

    return of


def _in_terms_of(call: Call | None, failure: CNIFailure) -> CNIFailure:
    """Who asks has named his namespace, and does not know how we reach it."""
    if call is None or call.netns_here == call.netns:
        return failure
    message = str(failure).replace(call.netns_here, call.netns)
    return CNIFailure(failure.code, message, failure.details)


def seen_by(pid: int, path: str, handle: int) -> str:
    """A namespace of a process, from where we are: a runtime may have mounts of its own.

    Its namespaces are mounts, so in ours there is an empty file of that name, or nothing. Whether
    its mounts are ours cannot be asked: it may have privileges that we have given up.

    Args:
        handle: the process has it open as that.
    """
    return path if handle < 0 or netns.is_namespace(path) else f"/proc/{pid}/fd/{handle}"


def wants_delegate(call: Call) -> bool:
    """Somebody else's IPAM plugin has to be run."""
    return not call.is_ipam and call.config.ipam_type in DELEGATES and call.delegated is None


def _removal(entry: Entry) -> Remove:
    return Remove(
        namespace=entry.key.namespace,
        workload=entry.key.workload,
        orchestrator=entry.key.orchestrator,
        endpoint=entry.key.endpoint,
        container_id=entry.container_id,
        handle=entry.handle_id,
    )


def _mtu(call: Call) -> int:
    """Of Calico's file, where a network insists on it.

    Raises:
        CNIFailure: the file is not there, or holds no number.
    """
    if not call.config.require_mtu_file or call.config.mtu:
        return 0
    try:
        return int(MTU_FILE.read_text())
    except (OSError, ValueError) as error:
        raise CNIFailure(BAD_CONFIG, f"require_mtu_file: {MTU_FILE}: {error}") from None
