from typing import Any

import msgspec
import pytest

from tortie.kube.settings import NAMES, effective
from tortie.lib.errors import InvalidInput
from tortie.model import codec
from tortie.model.keys import ResourceKey
from tortie.model.kube_controllers import (
    KubeControllersConfiguration,
    KubeControllersConfigurationSpec,
)


def spec(**controllers: Any) -> KubeControllersConfigurationSpec:
    document = {"metadata": {"name": "default"}, "spec": {"controllers": controllers}}
    key = ResourceKey("KubeControllersConfiguration", "default")
    found = codec.decode(key, msgspec.json.encode(document))
    assert isinstance(found, KubeControllersConfiguration)
    return found.spec


def test_a_controller_that_the_resource_leaves_out_does_not_run() -> None:
    found = effective(spec(policy={}, node={"leakGracePeriod": "90s"}), {})
    assert found.controllers == {"policy", "node"}
    assert found.leak_grace_seconds == 90
    assert found.resync_seconds == 300
    assert found.compaction_seconds == 600
    assert found.host_endpoint_templates == ()


def test_the_environment_beats_the_resource() -> None:
    found = effective(
        spec(policy={"reconcilerPeriod": "1h"}, node={"syncLabels": "Enabled"}),
        {
            "ENABLED_CONTROLLERS": "node, policy,namespace",
            "RECONCILER_PERIOD": "1m30s",
            "COMPACTION_PERIOD": "0",
            "SYNC_NODE_LABELS": "false",
            "AUTO_HOST_ENDPOINTS": "enabled",
            "LOG_LEVEL": "warning",
            "HEALTH_ENABLED": "false",
        },
    )
    assert found.controllers == {"node", "policy", "namespace"}
    assert found.resync_seconds == 90
    assert found.compaction_seconds == 0
    assert not found.syncs_labels
    assert not found.health_enabled
    assert found.log_severity == "Warning"
    assert [template.generate_name for template in found.host_endpoint_templates] == [""]


def test_all_controllers_can_be_asked_for_by_the_names_that_calico_has() -> None:
    found = effective(spec(), {"ENABLED_CONTROLLERS": ",".join(NAMES)})
    assert found.controllers == set(NAMES)


def test_templates_of_host_endpoints_may_take_the_place_of_the_default_one() -> None:
    automatic = {
        "autoCreate": "Enabled",
        "createDefaultHostEndpoint": "Disabled",
        "templates": [{"generateName": "storage", "interfaceCIDRs": ["10.9.0.0/16"]}],
    }
    found = effective(spec(node={"hostEndpoint": automatic}), {})
    assert [template.generate_name for template in found.host_endpoint_templates] == ["storage"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENABLED_CONTROLLERS", "policy,flannelmigration2"),
        ("RECONCILER_PERIOD", "soon"),
        ("COMPACTION_PERIOD", "-1m"),
        ("SYNC_NODE_LABELS", "maybe"),
        ("AUTO_HOST_ENDPOINTS", "true"),
        ("LOG_LEVEL", "loud"),
        ("HEALTH_ENABLED", "1 "),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        effective(spec(node={}), {name: value})
