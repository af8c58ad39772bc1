"""Where a Kubernetes API server is, and who we are to it.

Either a kubeconfig file, as kubectl has it, or what every pod finds in its file system. Tokens in
files are read at each use: the kubelet replaces them long before they end.

Source: Kubernetes, client-go tools/clientcmd/api/v1 (types.go), rest/config.go (InClusterConfig).
"""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tortie.lib.errors import InvalidInput, NotFound

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Cluster(NamedTuple):
    """One API server. Its text form has no secrets."""

    server: str
    """URL without a slash at its end."""
    tls: ssl.SSLContext | None
    """None for http."""
    token_file: Path | None = None
    fixed_token: str = ""
    basic: tuple[str, str] | None = None
    """User and password."""
    server_name: str | None = None
    """To expect in its certificate, if that is not the name in `server`."""

    def __repr__(self) -> str:
        return f"Cluster({self.server})"

    def authorization(self) -> str:
        """The header's value; empty where a certificate of ours says who we are.

        Raises:
            NotFound: the token's file is gone.
        """
        if self.token_file is not None:
            try:
                return f"Bearer {self.token_file.read_text().strip()}"
            except OSError as error:
                raise NotFound(f"the token for {self.server}: {error}") from None
        if self.fixed_token:
            return f"Bearer {self.fixed_token}"
        if self.basic is not None:
            pair = base64.b64encode(":".join(self.basic).encode()).decode()
            return f"Basic {pair}"
        return ""


def from_environment(
    environment: Mapping[str, str],
    file: Path | None = None,
    service_account: Path = SERVICE_ACCOUNT,
) -> Cluster:
    """
    Args:
        file: a kubeconfig; None means the one `KUBECONFIG` names, else a pod's own account, else
            `~/.kube/config`.

    Raises:
        NotFound: nothing says where the API server is; says what to do.
        InvalidInput: what says it is wrong.
    """
    named = file or next(
        (Path(path) for path in environment.get("KUBECONFIG", "").split(":") if path), None
    )
    if named is not None:
        return read(named)
    if environment.get("KUBERNETES_SERVICE_HOST") and (service_account / "token").exists():
        return _in_cluster(environment, service_account)
    home = Path(environment.get("HOME", "/root")) / ".kube" / "config"
    if home.exists():
        return read(home)
    raise NotFound(
        "no Kubernetes API server is configured: set KUBECONFIG or give --kubeconfig, "
        "or run as a pod with a service account"
    )


def read(file: Path) -> Cluster:
    """The current context of a kubeconfig.

    Raises:
        NotFound: there is no such file, or one that it names is missing.
        InvalidInput: says which field is wrong.
    """
    import yaml  # slow to import

    try:
        document = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise NotFound(f"there is no kubeconfig {file}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{file}: {' '.join(str(error).split())}") from None
    try:
        root = _mapping(document, "the document")
        context = _named(root, "contexts", "context", _text(root, "current-context"))
        cluster = _named(root, "clusters", "cluster", _text(context, "cluster"))
        user = _named(root, "users", "user", _text(context, "user")) if context.get("user") else {}
        return _cluster(cluster, user, file.parent)
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from None


def _in_cluster(environment: Mapping[str, str], account: Path) -> Cluster:
    host = environment["KUBERNETES_SERVICE_HOST"]
    host = f"[{host}]" if ":" in host else host
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
    except OSError as error:
        raise NotFound(f"{account / 'ca.crt'}: {error}") from None
    return Cluster(f"https://{host}:{port}", tls, token_file=account / "token")


def _cluster(cluster: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> Cluster:
    for unknown in ("exec", "auth-provider"):
        if user.get(unknown):
            raise InvalidInput(
                f"user.{unknown}: programs that fetch credentials are not run here; "
                "use a token, tokenFile or a client certificate"
            )
    server = _text(cluster, "server").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise InvalidInput(f"cluster.server: {server!r} is not a URL of https or http")
    token_file = _text(user, "tokenFile", "")
    password = _text(user, "password", "")
    return Cluster(
        server,
        _tls(cluster, user, base) if server.startswith("https://") else None,
        token_file=base / token_file if token_file else None,
        fixed_token=_text(user, "token", ""),
        basic=(_text(user, "username"), password) if password else None,
        server_name=_text(cluster, "tls-server-name", "") or None,
    )


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority", base)
    certificate = _content(user, "client-certificate", base)
    key = _content(user, "client-key", base)
    if (certificate is None) != (key is None):
        raise InvalidInput("user: client-certificate and client-key belong together")
    try:
        context = ssl.create_default_context(cadata=authority.decode() if authority else None)
        if cluster.get("insecure-skip-tls-verify") is True:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate is not None and key is not None:
            _load_certificate(context, certificate, key)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"certificates: {error}") from None
    return context


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Python takes files only: made for the moment, and for nobody else to read."""
    descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)


def _content(parent: Mapping[str, Any], field: str, base: Path) -> bytes | None:
    """Given in the field itself, as base64, or in a file, relative to the kubeconfig."""
    inline = _text(parent, f"{field}-data", "")
    if inline:
        try:
            return base64.b64decode(inline, validate=True)
        except binascii.Error:
            raise InvalidInput(f"{field}-data is not base64") from None
    path = _text(parent, field, "")
    if not path:
        return None
    try:
        return (base / path).read_bytes()
    except OSError as error:
        raise NotFound(f"{field}: {error}") from None


def _named(root: Mapping[str, Any], list_field: str, field: str, name: str) -> Mapping[str, Any]:
    entries = root.get(list_field) or []
    if not isinstance(entries, list):
        raise InvalidInput(f"{list_field} is not a list")
    for entry in entries:
        if isinstance(entry, Mapping) and entry.get("name") == name:
            return _mapping(entry.get(field) or {}, f"{list_field}[{name}].{field}")
    raise InvalidInput(f"{list_field} has no {name!r}")


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{what} is not a mapping")
    return value


def _text(parent: Mapping[str, Any], field: str, default: str | None = None) -> str:
    value = parent.get(field, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value):
        raise InvalidInput(f"{field} is missing or not text")
    return value
