"""Canary secrets in every form in which files, commands and logs may hold one."""

import json
from pathlib import Path

import pytest

from tortie.ctl.redaction import HIDDEN, Redactor, is_secret_name, redacted, redacted_text

CANARY = "canary-7c41d0"
PEM = f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\nMHcCAQ{CANARY}==\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"password: {CANARY}",
        f"  etcdPassword: {CANARY}",
        f"- password: {CANARY}",
        f"password: |\n  {CANARY}\n  {CANARY}\nnext: fine\n",
        f"  password: >-\n    {CANARY}\n",
        f"ETCD_PASSWORD={CANARY}",
        f"export ETCD_PASSWORD='{CANARY} {CANARY}'",
        f'{{"name": "x", "password": "{CANARY}"}}',
        f'{{"a":"b","etcd_password":"{CANARY} with \\" quotes {CANARY}","c":"d"}}',
        f'"last": "{{\\"spec\\":{{\\"token\\":\\"{CANARY}\\"}}}}"',
        f"tortie --etcd-password {CANARY} get nodes",
        f"curl --token={CANARY} http://h/",
        f"http://me:{CANARY}@h:2379,https://you:{CANARY}@i/",
        f"  password \"{CANARY}\";",
        f"client-key-data: {CANARY}",
        f"login failed (password={CANARY}, user=me)",
        f"PrivateKey = {CANARY}",
        PEM,
        PEM.partition("-----END")[0],
        f"etcdKey: |\n  {PEM}",
    ],
)  # fmt: skip
def test_by_name_and_form(text: str) -> None:
    assert CANARY in text
    assert CANARY not in redacted_text(text)
    assert CANARY not in json.dumps(redacted({"text": [text]}))
    assert HIDDEN in redacted_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://h:2379/x", "name: web", "a = b", "passwordFile: /etc/x", "secretName: bgp",
        "etcdKeyFile: /etc/calico/key.pem", "secretKeyRef:\n  name: bgp\n  key: password\n",
        "tcp:22,udp:68", "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted_text(text) == text


def test_names() -> None:
    assert is_secret_name("ETCD_PASSWORD")
    assert is_secret_name("etcdKey")
    assert not is_secret_name("etcdKeyFile")
    assert not is_secret_name("endpoint")


def test_redacting_twice_changes_nothing() -> None:
    text = f'password: {CANARY}\n{{"token": "{CANARY}"}}\nhttp://a:{CANARY}@h/\n{PEM}\n'
    assert redacted_text(redacted_text(text)) == redacted_text(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("calicoctl.cfg", f"spec:\n  etcdPassword: '{CANARY}'\n"),
        ("calicoctl.json", json.dumps({"spec": {"etcdKey": PEM}})),
        ("block.yaml", f"spec:\n  password: |\n    {CANARY}\n"),
        ("felix.cfg", f"[global]\nEtcdPassword = {CANARY}\n"),
        ("calico.env", f'ETCD_PASSWORD="{CANARY}"\n'),
        ("url.env", f"ETCD_ENDPOINTS=http://me:{CANARY}@h:1\n"),
        ("kubeconfig.yaml", f"users:\n- user: {{token: {CANARY}}}\n"),
        ("two.yaml", f"a: 1\n---\npassword: {CANARY}\n"),
        ("list.conf", json.dumps({"plugins": [{"kubernetes": {"k8s_auth_token": CANARY}}]})),
    ],
)
def test_what_is_learnt_is_hidden_anywhere(tmp_path: Path, name: str, text: str) -> None:
    """In a text where nothing tells that it is one."""
    path = tmp_path / name
    path.write_text(text)
    redactor = Redactor()
    redactor.learn_file(path)
    assert CANARY not in redactor.hide(f"unexpected greeting {CANARY} from 10.0.0.1\n")
    assert redactor.hide("unexpected greeting") == "unexpected greeting"


def test_other_spellings_of_a_secret() -> None:
    secret = 'p@ss "word"/ü'
    redactor = Redactor()
    redactor.learn(secret)
    for spelled in (secret, json.dumps(secret), "p%40ss%20%22word%22/%C3%BC", f"x{secret}y"):
        assert "word" not in redactor.hide(f"see {spelled} there")


def test_short_secrets_are_hidden_by_name_alone() -> None:
    """Or every `no` of a log would be hidden."""
    redactor = Redactor()
    redactor.learn("no")
    assert redactor.hide("no route") == "no route"
    assert redactor.hide("password: no") == f"password: {HIDDEN}"


@pytest.mark.parametrize("text", ["\x00" * 100, "{" * 5000, "a: &a [*a]", "!!python/object:x {}"])
def test_files_that_are_no_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd"
    path.write_text(text)
    Redactor().learn_file(path)
    Redactor().learn_file(tmp_path)
    Redactor().learn_file(tmp_path / "none")
