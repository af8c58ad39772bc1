"""The wire format: what is accepted, what is refused and in which words."""

import hashlib
import json
from typing import Any

import pytest

from tortie.attach.requests import (
    Add,
    Attached,
    List,
    WorkloadKey,
    decode_request,
    encode_error,
    encode_result,
)
from tortie.lib.errors import InvalidInput, Unavailable

SMALLEST = {"call": "add", "namespace": "prod", "workload": "web", "netns": "/run/netns/web"}


def decode(**fields: Any) -> Add:
    found = decode_request(json.dumps({**SMALLEST, **fields}).encode())
    assert isinstance(found, Add)
    return found


def test_the_smallest_add() -> None:
    found = decode()
    assert found.key == WorkloadKey("prod", "tortie", "web", "eth0")
    assert found.handle_id == "tortie.prod.web.eth0"
    assert found.families == (4,)
    assert found.inside == "eth0"


def test_the_interface_is_calicos_and_differs_by_endpoint() -> None:

    first, second = decode().interface("cali"), decode(endpoint="eth1").interface("cali")
    assert first == "cali" + hashlib.sha1(b"prod.web").hexdigest()[:11]
    assert second != first
    assert decode(host_interface="caliweb").interface("cali") == "caliweb"
    assert decode().interface("tap") == first.replace("cali", "tap")


def test_unknown_fields_are_ignored() -> None:
    assert decode(invented_in_2030=True) == decode()


def test_other_calls() -> None:
    assert decode_request(b'{"call":"list"}') == List()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"call": "destroy"}, "destroy"),
        ({"namespace": "Prod"}, "namespace is 'Prod'"),
        ({"namespace": "a.b"}, "namespace"),
        ({"workload": "../etc"}, "workload"),
        ({"workload": "a\n"}, "workload"),
        ({"workload": ""}, "workload"),
        ({"workload": "x" * 254}, "workload"),
        ({"orchestrator": "a b"}, "orchestrator"),
        ({"endpoint": "é"}, "endpoint"),
        ({"handle": "../../x"}, "handle is '../../x'"),
        ({"handle": "x" * 508}, "handle"),
        ({"container_id": "a\nb"}, "container_id"),
        ({"netns": "netns/web"}, "an absolute path"),
        ({"netns": "/run/\0"}, "NUL"),
        ({"inside": "a/b"}, "inside"),
        ({"inside": ".."}, "inside"),
        ({"host_interface": "cali0123456789ab"}, "interface"),
        ({"families": [5]}, "4, 6 or both"),
        ({"families": []}, "4, 6 or both"),
        ({"addresses": ["10.0.0.0/24"]}, "where one address is expected"),
        ({"addresses": ["10.0.0.x"]}, "not an IP address"),
        ({"addresses": ["10.0.0.1"] * 17}, "at most 16"),
        ({"addresses": ["127.0.0.1"]}, "addresses is '127.0.0.1'; it must be an address that one"),
        ({"addresses": ["169.254.1.1"]}, "that one workload may have"),
        ({"addresses": ["0.0.0.0"]}, "that one workload may have"),
        ({"addresses": ["255.255.255.255"]}, "that one workload may have"),
        ({"addresses": ["239.1.1.1"]}, "that one workload may have"),
        ({"addresses": ["fe80::1"]}, "that one workload may have"),
        ({"nats": [{"external": "127.0.0.1"}]}, "nats is '127.0.0.1'"),
        ({"nats": [{"external": "::1"}]}, "nats is '::1'"),
        ({"mtu": 68}, "1280 to 65535"),
        ({"mac": "02:00:00:00:00"}, "not a MAC address"),
        ({"mac": "01:00:5e:00:00:01"}, "a unicast address"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"labels": {"a": 1}}, "$.labels"),
        ({"gateways": ["10.0.0.1"]}, "link-local"),
        ({"device": "pair"}, "empty for a pair"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 1e9}, "timeout_seconds"),
    ],
)
def test_bad_requests_name_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(**fields)
    assert message in str(caught.value)


@pytest.mark.parametrize("line", [b"", b"[]", b"{", b"\xff\xfe", b'{"call":"add"}', b"[" * 9000])
def test_what_is_no_request(line: bytes) -> None:
    with pytest.raises(InvalidInput, match="attach request"):
        decode_request(line)


def test_answers_are_one_line_each() -> None:
    result = Attached(
        key=WorkloadKey("prod", "tortie", "web", "eth0"),
        addresses=("10.0.0.1/32",),
        interface="cali0",
        inside="eth0",
        netns="/run/netns/web",
        mac="02:00:00:00:00:01",
    )
    line = encode_result(result)
    assert line.count(b"\n") == 1
    assert json.loads(line)["result"]["key"]["workload"] == "web"
    said = json.loads(encode_error(Unavailable("two\nlines")))
    assert said == {"error": {"kind": "Unavailable", "message": "two\nlines", "retryable": True}}
