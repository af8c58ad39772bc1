"""What a pod is, beside its name: the seam to whoever knows.

A runtime passes a pod's name, and with a capability its annotations; policy needs its labels
before its first packet. `PodSource` says them; `kubernetes.KubernetesPods` asks the API server,
where the configuration names one (`kubernetes.kubeconfig`). Without an answer there is no
endpoint: a pod that cannot be described is not attached, and the runtime tries again.

What changes later (labels, ports) the controllers bring to the endpoint (`tortie.kube.pods`).
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from tortie.attach.requests import Port


class Pod(NamedTuple):
    """One pod, as far as its endpoint goes."""

    labels: Mapping[str, str] = {}
    profiles: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    service_account: str = ""
    annotations: Mapping[str, str] = {}
    """Its own, over those of its namespace that it takes over."""
    uid: str = ""


class PodSource(Protocol):
    async def pod(self, namespace: str, name: str) -> Pod:
        """
        Raises:
            NotFound: there is no such pod.
            InvalidInput: it is one that gets no endpoint, or something in it is not valid.
            Denied: whoever we are may not read pods or namespaces.
            Unavailable: no answer in time; ask again.
        """
        ...

    async def pod_cidrs(self, node: str) -> tuple[str, ...]:
        """The subnets that Kubernetes gave a node; raises as `pod`."""
        ...
