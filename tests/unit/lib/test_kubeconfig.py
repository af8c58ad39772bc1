import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tortie.lib import kubeconfig
from tortie.lib.errors import InvalidInput, NotFound


def written(directory: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    file = directory / "config"
    document = {
        "clusters": [
            {"name": "other", "cluster": {"server": "https://other"}},
            {"name": "c", "cluster": cluster},
        ],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(json.dumps(document))  # JSON is YAML
    return file


def certificate(directory: Path) -> tuple[Path, Path]:
    key, made = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", made, "-subj", "/CN=api", "-days", "2"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


def test_the_current_context_counts(tmp_path: Path) -> None:
    file = written(tmp_path, {"server": "http://10.0.0.1:8080/"}, {"token": "t0k3n"})
    found = kubeconfig.read(file)
    assert (found.server, found.tls) == ("http://10.0.0.1:8080", None)
    assert found.authorization() == "Bearer t0k3n"
    assert "t0k3n" not in repr(found)


def test_a_token_file_is_read_at_each_use_and_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    found = kubeconfig.read(written(tmp_path, {"server": "http://a"}, {"tokenFile": "token"}))
    assert found.authorization() == "Bearer first"
    (tmp_path / "token").write_text("second")
    assert found.authorization() == "Bearer second"
    (tmp_path / "token").unlink()
    with pytest.raises(NotFound):
        found.authorization()


def test_certificates_in_files_and_in_the_text_mean_the_same(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)

    def text(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    in_files = kubeconfig.read(
        written(
            tmp_path,
            {"server": "https://api", "certificate-authority": "cert.pem"},
            {"client-certificate": "cert.pem", "client-key": "key.pem"},
        )
    )
    in_text = kubeconfig.read(
        written(
            tmp_path,
            {"server": "https://api", "certificate-authority-data": text(made)},
            {"client-certificate-data": text(made), "client-key-data": text(key)},
        )
    )
    for found in (in_files, in_text):
        assert found.tls is not None
        assert found.tls.check_hostname
        assert [ca["serialNumber"] for ca in found.tls.get_ca_certs()]
        assert found.authorization() == ""


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({}, {}, "server is missing"),
        ({"server": "unix:///x"}, {}, "cluster.server"),
        ({"server": "https://a"}, {"exec": {"command": "aws"}}, "user.exec"),
        ({"server": "https://a"}, {"client-key-data": "AA=="}, "belong together"),
        ({"server": "https://a", "certificate-authority-data": "*"}, {}, "not base64"),
        ({"server": "https://a", "certificate-authority-data": "AAAA"}, {}, "certificates"),
        ({"server": "https://a"}, {"token": 7}, "token"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as raised:
        kubeconfig.read(written(tmp_path, cluster, user))
    assert str(tmp_path) in str(raised.value)


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    account = tmp_path / "account"
    pod = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(NotFound, match="--kubeconfig"):
        kubeconfig.from_environment({"HOME": str(tmp_path), **pod}, service_account=account)
    account.mkdir()
    (account / "token").write_text("of the pod")
    certificate(account)[0].rename(account / "ca.crt")
    found = kubeconfig.from_environment({"HOME": str(tmp_path), **pod}, service_account=account)
    assert (found.server, found.authorization()) == ("https://[fd00::1]:6443", "Bearer of the pod")
    file = written(tmp_path, {"server": "http://named"}, {})
    named = {"KUBECONFIG": str(file), **pod}
    assert kubeconfig.from_environment(named, service_account=account).server == "http://named"
    (tmp_path / ".kube").mkdir()
    file.rename(tmp_path / ".kube" / "config")
    assert kubeconfig.from_environment({"HOME": str(tmp_path)}).server == "http://named"
    with pytest.raises(NotFound, match="no kubeconfig"):
        kubeconfig.read(file)
