"""A virtual machine on its way from one host to another.

Calico gives these fields no JSON names, so they are stored under their Go names.

Source: Calico, libcalico-go/lib/apis/internalapi/livemigration.go.
"""

from typing import Annotated

import msgspec

from tortie.model.limits import PRESENT, Selector
from tortie.model.metadata import Resource, Spec


class WorkloadIdentifier(Spec, frozen=True, kw_only=True, rename="pascal"):
    hostname: str = ""
    """Ignored for Kubernetes, where the workload's id is enough."""
    orchestrator_id: str = msgspec.field(default="", name="OrchestratorID")
    workload_id: str = msgspec.field(default="", name="WorkloadID")


class WorkloadEndpointIdentifier(WorkloadIdentifier, frozen=True, kw_only=True, rename="pascal"):
    endpoint_id: str = msgspec.field(default="", name="EndpointID")


class LiveMigrationSource(Spec, frozen=True, kw_only=True, rename="pascal"):
    """Exactly one of them."""

    workload: WorkloadIdentifier | None = None
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationTarget(Spec, frozen=True, kw_only=True, rename="pascal"):
    """Exactly one of them."""

    selector: Selector | None = None
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationSpec(Spec, frozen=True, kw_only=True, rename="pascal"):
    source: LiveMigrationSource | None = None
    target: LiveMigrationTarget | None = None


class LiveMigration(Resource, frozen=True, kw_only=True):
    spec: Annotated[LiveMigrationSpec, PRESENT] = LiveMigrationSpec()
