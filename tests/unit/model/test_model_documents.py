"""Users' files: what is read, and what each mistake is told as."""

import json
from typing import cast

import pytest

from tortie.model.documents import InvalidFile, load, nearest
from tortie.model.node import IPPool
from tortie.model.policy import NetworkPolicy

HEAD = "apiVersion: projectcalico.org/v3\n"
POLICY = HEAD + "kind: NetworkPolicy\nmetadata:\n  name: web\n"


def _message(text: str) -> str:
    with pytest.raises(InvalidFile) as caught:
        load(text.encode(), "f.yaml")
    assert len(caught.value.messages) == 1, caught.value.messages
    return caught.value.messages[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "kind: NetworkPolcy\nmetadata: {name: web}\n",
            "f.yaml:2:7: unknown kind 'NetworkPolcy'; did you mean 'NetworkPolicy'?",
        ),
        (HEAD + "kind: Elephant\n", "f.yaml:2:7: unknown kind 'Elephant'"),
        (HEAD + "metadata: {}\n", "f.yaml:1:1: kind is needed, such as 'NetworkPolicy'"),
        (
            "kind: Node\nmetadata: {name: n}\n",
            "f.yaml:1:1: Node: apiVersion is needed and must be 'projectcalico.org/v3'",
        ),
        (
            "apiVersion: v1\nkind: Node\n",
            "f.yaml:1:13: Node: apiVersion 'v1' is wrong; it must be 'projectcalico.org/v3'",
        ),
        ("- 1\n", "f.yaml:1:3: a resource is a mapping with kind, metadata and spec"),
        (
            POLICY + "spec:\n  ingres: []\n",
            "f.yaml:6:3: NetworkPolicy: spec.ingres: field in document is not recog"
            "nized or is in the wrong location: ingres; did you mean 'ingress'?",
        ),
        (
            POLICY + "spec:\n  ingress:\n  - action: Allow\n    source: {net: ['::/0']}\n",
            "f.yaml:8:14: NetworkPolicy: spec.ingress[0].source.net: field in document is not recog"
            "nized or is in the wrong location: net; "
            "did you mean 'nets'?",
        ),
        (
            POLICY + "spec: {zzz: 1}\n",
            "f.yaml:5:8: NetworkPolicy: spec.zzz: field in document is not recog"
            "nized or is in the wrong location: zzz",
        ),
        (
            POLICY + "spec: {doNotTrack: true}\n",
            "f.yaml:5:8: NetworkPolicy: spec.doNotTrack: field in document is not recog"
            "nized or is in the wrong location: doNotTrack",
        ),
        (
            POLICY + "spec:\n  order: ten\n",
            "f.yaml:6:10: NetworkPolicy: spec.order: must be a number (it is 'ten')",
        ),
        (
            POLICY + "  labels:\n    a: b\n    example.org/version: 1.10\n",
            "f.yaml:7:26: NetworkPolicy: metadata.labels.example.org/version: must be text "
            "(it is 1.1); put it in quotes",
        ),
        (
            POLICY + "spec:\n  egress:\n  - action: deny\n",
            "f.yaml:7:13: NetworkPolicy: spec.egress[0].action: must be one of "
            "Allow, Deny, Log, Pass (it is 'deny'); did you mean 'Deny'?",
        ),
        (
            POLICY + "spec:\n  egress:\n  - protocol: TCP\n",
            "f.yaml:7:5: NetworkPolicy: spec.egress[0]: action is needed",
        ),
        (
            POLICY + "spec:\n  types: Ingress\n",
            "f.yaml:6:10: NetworkPolicy: spec.types: must be a list (it is 'Ingress')",
        ),
        (
            POLICY + "spec:\n  selector: role = 'web'\n",
            "f.yaml:6:13: NetworkPolicy(default/web): spec.selector: "
            "selector, column 6: expected == (it is \"role = 'web'\")",
        ),
        (
            HEAD + "kind: IPPool\nmetadata: {name: p}\nspec:\n  cidr: 10.0.0.1/8\n",
            "f.yaml:5:9: IPPool(p): spec.cidr: has host bits set; did you mean 10.0.0.0/8? "
            "(it is '10.0.0.1/8')",
        ),
        (
            HEAD + "kind: IPPool\nmetadata: {name: p}\nspec:\n  cidr: 10.0.0.0/8\n"
            "  natOutgoing: yes\n",
            "f.yaml:6:16: IPPool: spec.natOutgoing: must be true or false (it is 'yes')",
        ),
        (POLICY, "f.yaml:1:1: NetworkPolicy: spec: is needed"),
        (
            POLICY + "spec: {types: []}\n",
            "f.yaml:5:15: NetworkPolicy: spec.types: must have at least 1 entry, or be left out",
        ),
        (POLICY + "spec: [\n", "f.yaml:6:1: not YAML: did not find expected node content, "
            "while parsing a flow node"),
        (POLICY + POLICY, "f.yaml:5:1: 'apiVersion' is there twice"),
    ],
)  # fmt: skip
def test_mistakes(text: str, message: str) -> None:
    assert _message(text) == message


def test_every_mistake_of_every_document_is_told() -> None:
    text = POLICY + "spec: {a: 1, b: 2}\n---\n" + HEAD + "kind: Nod\n---\n" + POLICY + "spec: {}\n"
    with pytest.raises(InvalidFile) as caught:
        load(text.encode(), "f")
    assert [m.split(": ")[0] for m in caught.value.messages] == ["f:5:8", "f:5:14", "f:8:7"]


def test_not_utf8() -> None:
    with pytest.raises(InvalidFile, match="f:2:3: not UTF-8"):
        load(b"a: 1\nb:\xff", "f")


def test_lists_and_several_documents() -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: a}}\n"
        "- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: b}}\n---\n"
        + HEAD
        + "kind: NodeList\nmetadata: {}\nitems:\n"
        + "- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: c}}\n---\n"
        + POLICY
        + "spec: {}\n"
    )
    documents = load(text.encode(), "f", namespace="shop")
    assert [str(d.key) for d in documents] == [
        "Node(a)", "Node(b)", "Node(c)", "NetworkPolicy(shop/web)",
    ]  # fmt: skip
    assert documents[1].where == "f:5:3"


def test_a_mistake_within_a_list_has_its_place() -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n- 1\n- apiVersion: projectcalico.org/v3\n  kind: X\n"
    )
    with pytest.raises(InvalidFile) as caught:
        load(text.encode(), "f")
    assert [m.split(": ")[0] for m in caught.value.messages] == ["f:4:3", "f:6:9"]


def test_defaults_are_filled_in() -> None:
    text = POLICY + "spec:\n  egress: [{action: Deny}]\n  selector:\n"
    policy = cast(NetworkPolicy, load(text.encode(), "f")[0].resource)
    assert policy.metadata.namespace == "default"
    assert policy.metadata.labels == {"projectcalico.org/tier": "default"}
    assert policy.spec.types == ("Egress",)
    text = HEAD + "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 'FD00:0::/64'}\n"
    pool = cast(IPPool, load(text.encode(), "f")[0].resource)
    assert (pool.spec.cidr, pool.spec.block_size) == ("fd00::/64", 122)


def test_json_files_are_json_only() -> None:
    document = {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n"}}
    assert str(load(json.dumps(document).encode(), "n.json")[0].key) == "Node(n)"
    with pytest.raises(InvalidFile, match=r"n\.json:1:1: not JSON"):
        load(b"kind: Node", "n.json")


def test_structure_alone_for_get_and_delete() -> None:
    text = POLICY + "spec: {selector: '((', tier: none}\n"
    assert str(load(text.encode(), "f", complete=False)[0].key) == "NetworkPolicy(default/web)"
    with pytest.raises(InvalidFile, match="name is needed"):
        load((HEAD + "kind: Node\n").encode(), "f", complete=False)


def test_nearest_ignores_case() -> None:
    assert nearest("networkpolicy", ["NetworkPolicy", "Node"]) == "NetworkPolicy"
    assert nearest("xyz", ["NetworkPolicy", "Node"]) is None
