"""What a service is reached by from outside: what hosts announce it with.

Calico takes this from Kubernetes' own Services, and only where Kubernetes is its datastore. Here
whoever knows the services writes it beside everything else, as for
`tortie.model.endpoint_slice`, which says who serves it.
"""

from typing import Literal

import msgspec

from tortie.model.metadata import Resource, Spec


class KubernetesServiceSpec(Spec, frozen=True, kw_only=True):
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    load_balancer_ips: tuple[str, ...] = msgspec.field(default=(), name="loadBalancerIPs")
    """Each one address."""
    external_traffic_policy: Literal["", "Cluster", "Local"] = ""
    """`Local`: only hosts that serve it announce it."""


class KubernetesService(Resource, frozen=True, kw_only=True):
    spec: KubernetesServiceSpec = KubernetesServiceSpec()
