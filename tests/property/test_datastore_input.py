"""What comes from files, name servers and whatever answers as etcd: a value, or an error of ours.

Never another exception, never a secret in its text.
"""

import contextlib
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tortie.ctl.convert import CLUSTER_KINDS
from tortie.datastore.connect import from_environment, open_client
from tortie.datastore.etcd import messages
from tortie.datastore.etcd.discovery import parse
from tortie.datastore.etcd.tls import TLSText, client_context
from tortie.lib.errors import InvalidInput, NotFound, TortieError, Unavailable
from tortie.model.kubernetes.cluster_policy import cluster_policy
from tortie.model.kubernetes.network_policy import network_policy

CANARY = "canary-5f1d"

_FIELDS = (
    "datastoreType", "etcdEndpoints", "etcdDiscoverySrv", "etcdUsername", "etcdPassword",
    "etcdKeyFile", "etcdCertFile", "etcdCACertFile", "etcdKey", "etcdCert", "etcdCACert",
    "embeddedPath", "kubeconfig",
)  # fmt: skip
_SECRETS = ("etcdPassword", "etcdKey", "etcdCert")

_words = st.text(string.printable, max_size=12) | st.sampled_from(
    ["etcdv3", "embedded", "http://[", "https://a:99999", "unix://", "http://a,http://b", "\0"]
)
_values = _words | st.integers() | st.none() | st.lists(_words, max_size=2)
_specs = st.dictionaries(st.sampled_from(_FIELDS), _values, max_size=5) | _values


@settings(deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(spec={"etcdEndpoints": "http://[::1", "etcdPassword": "a"})
@example(spec={"etcdKey": "a", "etcdCert": "a", "etcdEndpoints": "https://a"})
@given(spec=_specs)
def test_any_configuration_file(spec: Any, tmp_path: Path) -> None:
    if isinstance(spec, dict):
        for name in _SECRETS:
            if name in spec:
                spec[name] = f"{CANARY}{spec[name]}"
    path = tmp_path / "calicoctl.cfg"
    path.write_text(yaml.safe_dump({"kind": "CalicoAPIConfig", "spec": spec}))
    shown = ""
    try:
        found = from_environment({}, path)
        shown = repr(found)
        shown += repr(vars(open_client(found)))
    except (InvalidInput, NotFound) as error:
        shown += str(error)
    assert CANARY not in shown
    assert shown.isprintable()


@settings(deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(raw=b"2001-13-99")
@example(raw=b"!!int a")
@example(raw=b"[" * 5000)
@given(raw=st.binary(max_size=60) | st.text(string.punctuation + "ab \n", max_size=40))
def test_any_bytes_as_a_configuration_file(raw: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "calicoctl.cfg"
    broken = raw if isinstance(raw, bytes) else raw.encode()
    for text in (broken, b"spec:\n  etcdPassword: " + broken + CANARY.encode() + broken):
        path.write_bytes(text)
        shown = ""
        try:
            shown = repr(from_environment({}, path))
        except InvalidInput as error:
            shown = str(error)
        assert CANARY not in shown


@settings(max_examples=20, deadline=None)  # each reads the system's authorities
@given(text=st.text(string.printable, max_size=40), certificate=st.text(max_size=20))
def test_any_text_as_pem(text: str, certificate: str) -> None:
    pem = f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"
    for given_text in (TLSText(ca=pem), TLSText(certificate=f"{pem}{certificate}", key=CANARY)):
        with pytest.raises(InvalidInput) as caught:
            client_context(given_text)
        assert CANARY not in str(caught.value)


_ANSWER = (
    b"\0\1\x81\x80\0\1\0\1\0\0\0\0\1x\4test\0\0\x21\0\1"
    b"\xc0\x0c\0\x21\0\1\0\0\0\x3c\0\x0d\0\1\0\2\x09\x4b\4etcd\xc0\x0e"
)


@settings(deadline=2000)
@given(
    st.binary(max_size=80)
    | st.tuples(st.integers(0, len(_ANSWER)), st.binary(max_size=4)).map(
        lambda cut: _ANSWER[: cut[0]] + cut[1] + _ANSWER[cut[0] + len(cut[1]) :]
    )
)
def test_any_answer_of_a_name_server(answer: bytes) -> None:
    try:
        services = parse(answer)
    except Unavailable:
        return
    for service in services:
        assert service.host.isascii()
        assert not set(service.host) & set("/@:?# \n"), "it becomes part of a URL"


_DECODERS: tuple[Callable[[bytes], object], ...] = (
    messages.decode_header, messages.decode_range, messages.decode_txn, messages.decode_watch,
    messages.decode_lease, messages.decode_token, messages.decode_permission,
)  # fmt: skip
_pieces = st.lists(
    st.binary(max_size=6)
    | st.sampled_from([b"\x0a\x02\x18\x01", b"\x12\x00", b"\x5a\x04\x12\x02\x0a\x00", b"\x80"]),
    max_size=6,
).map(b"".join)


@settings(deadline=2000)
@example(data=b"\x12\x03\x08\xff\xff")
@example(data=b"\x12\x02a\n")
@example(data=b"\x08\x09")
@given(data=_pieces)
def test_any_bytes_as_etcd_s_answer(data: bytes) -> None:
    for decode in _DECODERS:
        with contextlib.suppress(TortieError):
            decode(data)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "name", "namespace", "podSelector", "matchLabels", "ingress",
                 "egress", "from", "to", "ports", "port", "protocol", "ipBlock", "cidr", "subject",
                 "priority", "action", "matchExpressions", "key", "operator", "values", "tier"]
            ),
            inner, max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=2000)
@given(spec=_anything, kind=st.sampled_from(CLUSTER_KINDS))
def test_any_object_of_kubernetes(spec: Any, kind: str) -> None:
    named = {"kind": kind, "metadata": {"name": "a", "namespace": "b"}, "spec": spec}
    for convert in (network_policy, cluster_policy):
        with contextlib.suppress(InvalidInput):
            convert(named)
