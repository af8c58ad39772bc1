"""Where the datastore is: Calico's variables, Calico's file, and clear refusals."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import tortie.datastore.connect as connect_module
from tortie.datastore.connect import (
    DatastoreSettings,
    DatastoreType,
    connect,
    from_environment,
    open_client,
)
from tortie.datastore.embedded import EmbeddedClient
from tortie.lib.errors import InvalidInput, NotFound

CONFIG = """
apiVersion: projectcalico.org/v3
kind: CalicoAPIConfig
metadata:
spec:
  datastoreType: etcdv3
  etcdEndpoints: https://10.0.0.1:2379,https://10.0.0.2:2379
  etcdUsername: felix
  etcdPassword: file-secret
  etcdKeyFile: /etc/calico/key.pem
  etcdCertFile: /etc/calico/cert.pem
  etcdCACertFile: /etc/calico/ca.pem
"""


@pytest.fixture(autouse=True)
def no_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_module, "DEFAULT_CONFIG_FILE", tmp_path / "no.cfg")
    monkeypatch.setattr(connect_module, "DEFAULT_EMBEDDED_PATH", tmp_path / "default.db")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "calicoctl.cfg"
    path.write_text(text)
    return path


def test_calicos_variables_are_read() -> None:
    settings = from_environment(
        {
            "DATASTORE_TYPE": "etcdv3",
            "ETCD_ENDPOINTS": " http://a:1, http://b:2,",
            "ETCD_USERNAME": "u",
            "ETCD_PASSWORD": "secret",
            "ETCD_KEY_FILE": "/k",
            "ETCD_CERT_FILE": "/c",
            "ETCD_CA_CERT_FILE": "/ca",
        }
    )
    assert settings == DatastoreSettings(
        type=DatastoreType.ETCDV3,
        endpoints=("http://a:1", "http://b:2"),
        username="u",
        password="secret",
        key_file=Path("/k"),
        certificate_file=Path("/c"),
        ca_file=Path("/ca"),
        embedded_path=settings.embedded_path,
    )


def test_the_file_gives_what_the_environment_does_not(tmp_path: Path) -> None:
    path = write(tmp_path, CONFIG)
    settings = from_environment({"ETCD_USERNAME": "admin", "ETCD_PASSWORD": ""}, path)
    assert settings.type is DatastoreType.ETCDV3
    assert settings.endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
    assert settings.username == "admin"
    assert settings.password == "file-secret", "an empty variable says nothing"
    assert settings.ca_file == Path("/etc/calico/ca.pem")


def test_secrets_are_not_in_any_text_form() -> None:
    settings = DatastoreSettings(username="felix", password="secret")
    for text in (repr(settings), str(settings), f"{settings}", f"{settings!r}"):
        assert "secret" not in text
        assert "secret" not in str(settings.__rich_repr__())
        assert "felix" in text


def test_without_a_type_what_is_there_decides(tmp_path: Path) -> None:
    assert from_environment({}).type is None
    assert from_environment({"ETCD_ENDPOINTS": "http://a:1"}).type is DatastoreType.ETCDV3
    path = {"TORTIE_EMBEDDED_PATH": str(tmp_path / "x.db")}
    assert from_environment(path).type is DatastoreType.EMBEDDED
    assert from_environment(path).embedded_path == tmp_path / "x.db"
    both = from_environment({"ETCD_ENDPOINTS": "http://a:1", **path})
    assert both.type is DatastoreType.ETCDV3
    (tmp_path / "default.db").touch()
    assert from_environment({}).type is DatastoreType.EMBEDDED


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind: [", "calicoctl.cfg: .*line"),
        ("kind: IPPool", "kind must be CalicoAPIConfig"),
        ("- a", "kind must be CalicoAPIConfig"),
        ("kind: CalicoAPIConfig\nspec: [1]", "spec must be a mapping"),
        ("kind: CalicoAPIConfig\nspec: {etcdEndpoints: [a]}", "spec.etcdEndpoints must be text"),
        ("kind: CalicoAPIConfig\nspec: {datastoreType: kubernetes}", "etcdv3 or embedded"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        from_environment({}, write(tmp_path, text))


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.cfg"):
        from_environment({}, tmp_path / "none.cfg")


def test_a_missing_datastore_says_what_to_do(tmp_path: Path) -> None:
    for settings in (
        from_environment({}),
        from_environment({"DATASTORE_TYPE": "etcdv3"}),
        from_environment({"TORTIE_EMBEDDED_PATH": str(tmp_path / "folder" / "x.db")}),
    ):
        with pytest.raises(NotFound, match=r"no datastore .*set ETCD_ENDPOINTS") as caught:
            asyncio.run(connect(settings))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "folder").exists(), "asking makes nothing"


def test_an_agent_makes_the_embedded_datastore(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.db"

    async def test() -> None:
        client = await connect(from_environment({"TORTIE_EMBEDDED_PATH": str(path)}), create=True)
        assert isinstance(client, EmbeddedClient)
        await client.close()
        again = await connect(from_environment({"TORTIE_EMBEDDED_PATH": str(path)}))
        await again.close()

    asyncio.run(test())


def test_an_etcd_client_is_made_without_reaching_for_it() -> None:
    async def test() -> None:
        client = open_client(from_environment({"ETCD_ENDPOINTS": "http://127.0.0.1:1"}))
        await client.close()

    asyncio.run(test())


def test_the_embedded_datastore_does_not_import_http2() -> None:
    program = "import sys, tortie.datastore.connect; print('h2' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"


INLINE = """
kind: CalicoAPIConfig
spec:
  etcdDiscoverySrv: example.test
  etcdKey: pem-of-key
  etcdCert: pem-of-certificate
  etcdCACert: pem-of-ca
"""


def test_inline_pem_and_discovery(tmp_path: Path) -> None:
    settings = from_environment({}, write(tmp_path, INLINE))
    assert settings.type is DatastoreType.ETCDV3
    assert settings.discovery_domain == "example.test"
    assert (settings.key, settings.certificate) == ("pem-of-key", "pem-of-certificate")
    assert settings.ca == "pem-of-ca"
    assert "pem-of" not in f"{settings!r} {settings} {settings.__rich_repr__()}"
    client = open_client(settings)
    assert "pem-of" not in repr(vars(vars(client)["_transport"]))


def test_the_environment_chooses_the_way(tmp_path: Path) -> None:
    """Its way of saying a thing puts the file's other way aside."""
    path = write(tmp_path, INLINE)
    settings = from_environment({"ETCD_ENDPOINTS": "http://a:1", "ETCD_CERT_FILE": "/c"}, path)
    assert (settings.endpoints, settings.discovery_domain) == (("http://a:1",), "")
    assert (settings.certificate_file, settings.certificate) == (Path("/c"), "")
    srv = from_environment({"ETCD_DISCOVERY_SRV": "b.test"}, write(tmp_path, CONFIG))
    assert (srv.endpoints, srv.discovery_domain) == ((), "b.test")


@pytest.mark.parametrize(
    ("environment", "text", "complaint"),
    [
        ({"ETCD_ENDPOINTS": "http://a", "ETCD_DISCOVERY_SRV": "b"}, CONFIG, "ETCD_DISCOVERY_SRV"),
        ({}, CONFIG + "  etcdDiscoverySrv: b\n", "ETCD_ENDPOINTS, ETCD_DISCOVERY_SRV: two ways"),
        ({}, CONFIG + "  etcdCACert: secret-text\n", "ETCD_CA_CERT_FILE, etcdCACert: two ways"),
        ({}, "kind: CalicoAPIConfig\nspec: {etcdKey: secret-text}", "one needs the other"),
    ],
)
def test_two_ways_at_once_are_refused(
    tmp_path: Path, environment: dict[str, str], text: str, complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint) as caught:
        from_environment(environment, write(tmp_path, text))
    assert "secret" not in str(caught.value)
