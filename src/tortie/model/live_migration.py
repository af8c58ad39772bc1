"""A virtual machine on its way from one host to another.

Source: Calico, libcalico-go/lib/apis/internalapi/livemigration.go.
"""

from typing import Annotated

import msgspec

from tortie.model.limits import PRESENT, Selector
from tortie.model.metadata import Resource, Spec


class WorkloadIdentifier(Spec, frozen=True, kw_only=True):
    hostname: str = ""
    """Ignored for Kubernetes, where the workload's id is enough."""
    orchestrator_id: str = msgspec.field(default="", name="orchestratorID")
    workload_id: str = msgspec.field(default="", name="workloadID")


class WorkloadEndpointIdentifier(WorkloadIdentifier, frozen=True, kw_only=True):
    endpoint_id: str = msgspec.field(default="", name="endpointID")


class LiveMigrationSource(Spec, frozen=True, kw_only=True):
    """Exactly one of them."""

    workload: WorkloadIdentifier | None = None
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationTarget(Spec, frozen=True, kw_only=True):
    """Exactly one of them."""

    selector: Selector | None = None
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationSpec(Spec, frozen=True, kw_only=True):
    source: LiveMigrationSource | None = None
    target: LiveMigrationTarget | None = None


class LiveMigration(Resource, frozen=True, kw_only=True):
    spec: Annotated[LiveMigrationSpec, PRESENT] = LiveMigrationSpec()
