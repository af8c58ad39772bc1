"""Pods as an API server of Kubernetes describes them.

Imported by who needs it: HTTP and TLS are 5 MB of an agent's memory.
"""

import asyncio
import http.client
import ssl
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from tortie.attach.cni.pods import Pod, PodSource
from tortie.attach.requests import Port
from tortie.lib import kubeconfig
from tortie.lib.errors import Denied, InvalidInput, NotFound, TortieError, Unavailable
from tortie.lib.kubeconfig import Cluster
from tortie.model.endpoint import NAMESPACE_LABEL, ORCHESTRATOR_LABEL
from tortie.model.kubernetes.fields import mapping, strings, text
from tortie.model.kubernetes.workload import pod_endpoint

ANSWER_SECONDS = 5.0
"""For one answer of the API server; kubelet waits two minutes for all of an ADD."""

ANSWER_MAX_BYTES = 4 << 20
"""A pod is at most 1.5 MiB in etcd; more of it in JSON."""

KUBECONFIG_MAX_BYTES = 1 << 20

QUESTIONS_AT_ONCE = 8
IDLE_CONNECTIONS = 8
"""Kept open: a handshake of TLS costs more than the question."""

POOL_ANNOTATIONS = ("cni.projectcalico.org/ipv4pools", "cni.projectcalico.org/ipv6pools")
"""The only ones that a pod takes over from its namespace. Source: Calico, cni-plugin/pkg/k8s."""


class KubernetesPods:
    """Pods of one API server; safe for many calls at once, from one event loop."""

    def __init__(self, cluster: Cluster, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._cluster = cluster
        self._answer_seconds = answer_seconds
        self._idle: list[http.client.HTTPConnection] = []
        # Of its own: a server that does not answer must not hold up what others do in threads.
        self._threads = ThreadPoolExecutor(QUESTIONS_AT_ONCE, "pods")

    async def pod(self, namespace: str, name: str) -> Pod:
        where = f"/api/v1/namespaces/{quote(namespace, safe='')}"
        described, around = await self._asked(f"{where}/pods/{quote(name, safe='')}", where)
        return pod_of(described, around)

    async def pod_cidrs(self, node: str) -> tuple[str, ...]:
        [described] = await self._asked(f"/api/v1/nodes/{quote(node, safe='')}")
        spec = mapping(described, "spec")
        several = spec.get("podCIDRs")  # since Kubernetes 1.16
        return tuple(map(str, several)) if several else tuple(filter(None, [text(spec, "podCIDR")]))

    async def _asked(self, *paths: str) -> "list[Mapping[str, Any]]":
        """Several objects at once."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(2 * self._answer_seconds):
                return await asyncio.gather(
                    *(loop.run_in_executor(self._threads, self._get, path) for path in paths)
                )
        except TimeoutError:
            raise Unavailable(self._said("no answer in time")) from None

    def _get(self, path: str) -> Mapping[str, Any]:
        """One object; blocks. A connection that was kept may have been closed by the server."""
        reused = self._idle.pop() if self._idle else None
        if reused is not None:
            try:
                return self._ask(reused, path)
            except (OSError, http.client.HTTPException):
                reused.close()
        connection = self._connect()
        try:
            return self._ask(connection, path)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(self._said(str(error) or type(error).__name__)) from error

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._cluster.server)
        host, port, timeout = parts.hostname or "", parts.port, self._answer_seconds
        tls = self._cluster.tls
        if tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        return _TLSConnection(host, port, timeout, tls, self._cluster.server_name)

    def _ask(self, connection: http.client.HTTPConnection, path: str) -> Mapping[str, Any]:
        headers = {"Accept": "application/json", "User-Agent": "tortie"}
        if authorization := self._cluster.authorization():
            headers["Authorization"] = authorization
        base = urlsplit(self._cluster.server).path.rstrip("/")
        connection.request("GET", base + path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(ANSWER_MAX_BYTES + 1)
        if len(body) > ANSWER_MAX_BYTES:
            connection.close()
            raise InvalidInput(self._said(f"{path} has more than {ANSWER_MAX_BYTES} bytes"))
        if len(self._idle) < IDLE_CONNECTIONS and not answer.will_close:
            self._idle.append(connection)
        else:
            connection.close()
        if answer.status != 200:
            raise self._refusal(answer.status, path, body)
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InvalidInput(self._said(f"{path} is not JSON: {error}")) from None

    def _refusal(self, status: int, path: str, body: bytes) -> TortieError:
        try:
            reason = str(msgspec.json.decode(body, type=dict[str, Any]).get("message", ""))
        except msgspec.DecodeError:
            reason = ""
        said = self._said(f"{reason or path} ({status})")
        if status == 404:
            return NotFound(said)
        if status in (401, 403):
            return Denied(f"{said}; it must allow to get pods, namespaces and nodes")
        return Unavailable(said)

    def _said(self, what: str) -> str:
        return f"the API server {self._cluster.server}: {what}"


class Sources:
    """One source for each kubeconfig that configurations name, read again when it changes."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, KubernetesPods]] = {}

    def of(self, file: Path) -> PodSource:
        """
        Raises:
            NotFound, InvalidInput: the file is missing, or says nothing that can be used.
        """
        try:
            found = file.stat()
        except OSError as error:
            raise NotFound(f"kubeconfig {file}: {error.strerror}") from None
        # A pipe or a device would be waited for, by everybody.
        if not stat.S_ISREG(found.st_mode) or found.st_size > KUBECONFIG_MAX_BYTES:
            raise InvalidInput(f"{file} is not a file of at most {KUBECONFIG_MAX_BYTES} bytes")
        changed = found.st_mtime_ns
        known = self._known.get(file)
        if known is None or known[0] != changed:
            known = changed, KubernetesPods(kubeconfig.read(file))
            self._known[file] = known
        return known[1]


def pod_of(pod: Mapping[str, Any], namespace: Mapping[str, Any]) -> Pod:
    """
    Raises:
        InvalidInput: it is on the host's network, or something in it is not valid.
    """
    made = pod_endpoint(pod)
    metadata = mapping(pod, "metadata")
    if made is None:
        name = f"{text(metadata, 'namespace')}/{text(metadata, 'name')}"
        raise InvalidInput(f"pod {name} is on its host's network, or has no host yet")
    endpoint = made[1]
    lent = strings(mapping(namespace, "metadata"), "annotations")
    annotations = {key: lent[key] for key in POOL_ANNOTATIONS if key in lent}
    labels = dict(endpoint.metadata.labels)
    for key in (NAMESPACE_LABEL, ORCHESTRATOR_LABEL):
        labels.pop(key, None)  # set from what the workload is
    return Pod(
        labels,
        endpoint.spec.profiles,
        tuple(
            Port(
                name=port.name,
                protocol=str(port.protocol),
                port=port.port,
                host_port=port.host_port,
                host_ip=port.host_ip,
            )
            for port in endpoint.spec.ports
        ),
        endpoint.spec.service_account_name,
        annotations | strings(metadata, "annotations"),
        text(metadata, "uid"),
    )


class _TLSConnection(http.client.HTTPSConnection):
    """Like its base, but the name that is expected in the certificate may be another one."""

    def __init__(
        self, host: str, port: int | None, timeout: float, tls: ssl.SSLContext, name: str | None
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=tls)
        self._tls = tls
        self._name = name or host

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)
