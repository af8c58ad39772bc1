"""Names, labels and versions, without a host."""

import json
from typing import Any

import pytest

from tortie.attach.cni import identity
from tortie.attach.cni.failure import CNIFailure
from tortie.attach.cni.netconf import Call, parse_args, parse_call, version_of
from tortie.attach.cni.result import parse_addresses
from tortie.attach.requests import Cni
from tortie.lib.errors import InvalidInput


def call(cni_args: str = "", /, command: str = "ADD", ifname: str = "eth0", **config: Any) -> Call:
    environment = {
        "CNI_CONTAINERID": "0123456789abcdef",
        "CNI_IFNAME": ifname,
        "CNI_NETNS": "/n",
        "CNI_ARGS": cni_args,
    }
    text = json.dumps({"name": "net", "cniVersion": "1.0.0", **config})
    return parse_call(Cni(plugin="tortie", command=command, environment=environment, config=text))


@pytest.mark.parametrize(
    ("raw", "made"),
    [
        ("app", "app"),
        ("a/b", "a.b"),
        ("a b&c", "a-b-c"),
        ("a-.-b", "a.b"),
        ("..a--", "a"),
        ("--", ""),
        ("日本", ""),
        ("x" * 80, "x" * 63),
        ("x" * 62 + "-y", "x" * 62),
    ],
)
def test_mesos_labels_become_legal(raw: str, made: str) -> None:
    assert identity.sanitized(raw) == made


def test_interface_names() -> None:
    assert identity.host_interface(call(), "cali") == "cali0123456789a"
    second = identity.host_interface(call(ifname="eth1"), "cali")
    assert second != "cali0123456789a"
    assert len(second) == 15
    pod = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0"
    # SHA-1 of "prod.web-0".
    assert identity.host_interface(call(pod), "cali") == "cali" + _sha1("prod.web-0")[:11]


def _sha1(text: str) -> str:
    import hashlib

    return hashlib.sha1(text.encode()).hexdigest()


def test_podman_names_a_container_but_no_namespace() -> None:
    found = call("IgnoreUnknown=1;K8S_POD_NAME=pc1")
    assert identity.key_of(found).orchestrator == "cni"
    assert identity.key_of(found).namespace == "default"


@pytest.mark.parametrize(
    ("ipam", "families"),
    [
        (None, (4,)),
        ({}, (4,)),
        ({"assign_ipv6": "true"}, (4, 6)),
        ({"assign_ipv4": "false", "assign_ipv6": True}, (6,)),
    ],
)
def test_families(ipam: dict[str, Any] | None, families: tuple[int, ...]) -> None:
    assert identity.add_of(call(ipam=ipam), "cali").families == families


def test_addresses_by_every_way() -> None:
    ways: list[dict[str, Any]] = [
        {"args": {"cni": {"ips": ["10.0.0.9/24"]}}},
        {"runtimeConfig": {"ips": ["10.0.0.9"]}},
        {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {
            "cni.projectcalico.org/ipAddrs": '["10.0.0.9"]'}}},
    ]  # fmt: skip
    for way in ways:
        assert identity.add_of(call(**way), "cali").addresses == ("10.0.0.9",)
    assert identity.add_of(call("IP=10.0.0.9"), "cali").addresses == ("10.0.0.9",)


@pytest.mark.parametrize("text", ["x", "{}", "[1]", '["10.0.0.1","10.0.0.2"]', '["zz"]'])
def test_bad_annotations(text: str) -> None:
    annotations = {"cni.projectcalico.org/ipAddrs": text}
    found = call(runtimeConfig={"io.kubernetes.cri.pod-annotations": annotations})
    with pytest.raises(CNIFailure) as raised:
        identity.add_of(found, "cali")
    assert raised.value.code == 7


def test_arguments_and_versions() -> None:
    assert parse_args("A=1;B=a=b;junk;=x;C=") == {"A": "1", "B": "a=b", "C": ""}
    assert version_of("nonsense") == version_of("{}") == version_of('{"cniVersion":"7"}') == "0.2.0"
    assert version_of('{"cniVersion":"0.4.0"}') == "0.4.0"


def test_results_of_other_ipam_plugins() -> None:
    new = {"ips": [{"address": "fd00::1/64"}, {"address": "10.1.1.1/24", "gateway": "10.1.1.254"}]}
    assert [str(found) for found in parse_addresses(json.dumps(new))] == [
        "10.1.1.1/32",
        "fd00::1/128",
    ]
    old = {"ip4": {"ip": "10.1.1.1/24"}}
    assert [str(found) for found in parse_addresses(json.dumps(old))] == ["10.1.1.1/32"]
    with pytest.raises(InvalidInput):
        parse_addresses("{")
