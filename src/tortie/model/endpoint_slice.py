"""Where a service is served: what rules with `services` rest on.

Calico takes this from Kubernetes' own EndpointSlices, and only where Kubernetes is its datastore.
Here whoever knows the services (the controllers, or an operator) writes it beside everything
else, under the key that Calico's scheme has for the kind. Several slices make up one service.

Source: Calico, libcalico-go/lib/backend/model/resource.go, felix/serviceindex.
"""

from typing import Annotated

from tortie.model.limits import NAME_MAX_CHARACTERS, PRESENT, Limits
from tortie.model.metadata import Resource, Spec

ENDPOINTS_MAX = 1000
"""As in Kubernetes."""


class SliceEndpoint(Spec, frozen=True, kw_only=True):
    addresses: tuple[str, ...] = ()
    """Each one address, of either family; all mean the same endpoint."""
    node_name: str = ""
    ready: bool = True
    """Policy is about who serves, ready or not; what is announced may depend on it."""


class SlicePort(Spec, frozen=True, kw_only=True):
    name: str = ""
    protocol: int | str = "TCP"
    port: Annotated[int, Limits(present=True, low=1, high=65535)] = 0
    """Of the endpoints, not of the service."""


class KubernetesEndpointSliceSpec(Spec, frozen=True, kw_only=True):
    service: Annotated[str, Limits(required=True, longest=NAME_MAX_CHARACTERS)] = ""
    """Its name, in the slice's namespace."""
    endpoints: Annotated[tuple[SliceEndpoint, ...], Limits(most=ENDPOINTS_MAX)] = ()
    ports: tuple[SlicePort, ...] = ()
    """All endpoints serve all of them."""


class KubernetesEndpointSlice(Resource, frozen=True, kw_only=True):
    spec: Annotated[KubernetesEndpointSliceSpec, PRESENT] = KubernetesEndpointSliceSpec()
