"""A network's profile, its names, and which labels of a container become the endpoint's."""

import pytest

from tortie.docker.profiles import endpoint_labels, label_name, network_profile, profile_name
from tortie.model.names import is_label_key, is_name
from tortie.selector.syntax import parse


@pytest.mark.parametrize(
    "name",
    ["net1", "front.end", "proj_default", "A", "kns.default", "ksa.x.y", "a" * 200, "x..y",
     "projectcalico-default-allow", "web.internal", "1.2.3", "_", "net-", "Ünicode"],
)  # fmt: skip
def test_any_name_of_a_network_has_a_profile_and_a_label(name: str) -> None:
    for internal in (False, True):
        profile = network_profile(name, internal=internal)
        assert is_name("Profile", profile.metadata.name)
        assert parse(profile.spec.ingress[0].source.selector).matches({label_name(name): ""})
    assert is_label_key(label_name(name))


def test_names_that_can_be_are_kept_and_those_of_others_are_not_taken() -> None:
    assert profile_name("net1") == label_name("net1") == "net1"
    assert label_name("proj_default") == "proj_default"
    assert not profile_name("kns.default").startswith("kns.")
    assert profile_name("projectcalico-default-allow") != "projectcalico-default-allow"


def test_different_networks_have_different_profiles() -> None:
    names = ["a_b", "a-b", "A-B", "a.b", "a.b.internal", "a__b", "x" * 60 + "_", "x" * 61 + "_"]
    made = {profile_name(name, internal=i) for name in names for i in (False, True)}
    assert len(made) == 2 * len(names)


def test_members_of_an_internal_network_reach_one_another_only() -> None:
    [egress] = network_profile("net1", internal=True).spec.egress
    assert egress.destination.selector == "has(net1)"
    [anywhere] = network_profile("net1").spec.egress
    assert anywhere.destination.selector == ""


def test_labels() -> None:
    prefix = "org.projectcalico.label."
    labels = {
        f"{prefix}role": "web",
        f"{prefix}example.com/tier": "",
        "role": "no",
        prefix: "no",
        f"{prefix}projectcalico.org/namespace": "kube-system",
        f"{prefix}spaced": "two words",
        f"{prefix}-x": "1",
    }
    found, bad = endpoint_labels(labels)
    assert found == {"role": "web", "example.com/tier": ""}
    assert len(bad) == 4
