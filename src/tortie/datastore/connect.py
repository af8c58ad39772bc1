"""From settings to a client: where the datastore is, and how to log in.

The names are Calico's: `DATASTORE_TYPE`, `ETCD_ENDPOINTS` and so on in the
environment, else the same in a CalicoAPIConfig file, which may also have keys
and certificates inline. Ours is one more, `TORTIE_EMBEDDED_PATH`
(`embeddedPath` in the file). Without a word about the
type it is etcdv3 if etcd endpoints are given; else embedded if its path is
given or the default file exists; else there is no datastore, which is said
only when somebody needs one.
"""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from tortie.datastore.client import Client
from tortie.datastore.embedded import EmbeddedClient
from tortie.lib.errors import InvalidInput, NotFound

DEFAULT_EMBEDDED_PATH = Path("/var/lib/tortie/datastore.db")
DEFAULT_CONFIG_FILE = Path("/etc/calico/calicoctl.cfg")

_HOW_TO = (
    "set ETCD_ENDPOINTS or ETCD_DISCOVERY_SRV for etcd, or DATASTORE_TYPE=embedded (and "
    "TORTIE_EMBEDDED_PATH) for a file on this machine, or name them in " + str(DEFAULT_CONFIG_FILE)
)


class DatastoreType(Enum):
    ETCDV3 = "etcdv3"
    EMBEDDED = "embedded"


_NOT_SHOWN = ("password", "key", "certificate", "ca")


class DatastoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the datastore is. Its text form leaves the password and PEM out."""

    type: DatastoreType | None = None
    """None: nothing says where a datastore is."""
    endpoints: tuple[str, ...] = ()
    discovery_domain: str = ""
    """Instead of endpoints: the domain whose SRV records name them."""
    key_file: Path | None = None
    certificate_file: Path | None = None
    ca_file: Path | None = None
    key: str = ""
    """PEM, as the other two; instead of files."""
    certificate: str = ""
    ca: str = ""
    username: str = ""
    password: str = ""
    embedded_path: Path = DEFAULT_EMBEDDED_PATH

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich shows, in tracebacks too; msgspec's own has every field."""
        fields = msgspec.structs.asdict(self).items()
        return [(name, "…" if name in _NOT_SHOWN and value else value) for name, value in fields]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"DatastoreSettings({fields})"

    __str__ = __repr__


_FILE_FIELDS = {
    "datastoreType": "DATASTORE_TYPE",
    "etcdEndpoints": "ETCD_ENDPOINTS",
    "etcdDiscoverySrv": "ETCD_DISCOVERY_SRV",
    "etcdUsername": "ETCD_USERNAME",
    "etcdPassword": "ETCD_PASSWORD",
    "etcdKeyFile": "ETCD_KEY_FILE",
    "etcdCertFile": "ETCD_CERT_FILE",
    "etcdCACertFile": "ETCD_CA_CERT_FILE",
    "embeddedPath": "TORTIE_EMBEDDED_PATH",
}
"""CalicoAPIConfig's field → the variable that means the same.

Source: Calico, libcalico-go/lib/apiconfig/apiconfig.go.
"""

_INLINE_FIELDS = ("etcdKey", "etcdCert", "etcdCACert")
"""PEM text. There are no variables for them: an environment is easily shown."""

_ALTERNATIVES = (
    (("ETCD_ENDPOINTS",), ("ETCD_DISCOVERY_SRV",)),
    (("ETCD_KEY_FILE", "ETCD_CERT_FILE", "ETCD_CA_CERT_FILE"), _INLINE_FIELDS),
)
"""Two ways to say one thing each."""


def from_environment(
    environment: Mapping[str, str], config_file: Path | None = None
) -> DatastoreSettings:
    """Read the settings; a variable that is set and not empty beats the file.

    Args:
        config_file: a CalicoAPIConfig; None means the default one, which may be missing.

    Raises:
        InvalidInput: the file or a value is wrong, or names a datastore we do not speak.
        NotFound: the file given is not there.
    """
    values = _merged(environment, _from_file(config_file))
    listed = (text.strip() for text in values.get("ETCD_ENDPOINTS", "").split(","))
    endpoints = tuple(text for text in listed if text)
    embedded_path = Path(values.get("TORTIE_EMBEDDED_PATH", DEFAULT_EMBEDDED_PATH))
    return DatastoreSettings(
        type=_type(values, embedded_path),
        endpoints=endpoints,
        discovery_domain=values.get("ETCD_DISCOVERY_SRV", ""),
        key_file=_path(values, "ETCD_KEY_FILE"),
        certificate_file=_path(values, "ETCD_CERT_FILE"),
        ca_file=_path(values, "ETCD_CA_CERT_FILE"),
        key=values.get("etcdKey", ""),
        certificate=values.get("etcdCert", ""),
        ca=values.get("etcdCACert", ""),
        username=values.get("ETCD_USERNAME", ""),
        password=values.get("ETCD_PASSWORD", ""),
        embedded_path=embedded_path,
    )


async def connect(settings: DatastoreSettings, *, create: bool = False) -> Client:
    """A client that has reached the datastore once.

    Args:
        create: make the embedded datastore if it is missing; agents do,
            a command that only asks must not.

    Raises:
        NotFound: there is no datastore; says what to do.
        InvalidInput: the settings are wrong.
        Unavailable: it does not answer.
        Denied: it refuses us.
    """
    client = open_client(settings, create=create)
    try:
        await client.revision()
    except BaseException as error:
        await client.close()
        if isinstance(error, NotFound):
            raise NotFound(f"{error}: start the agent on this host, or {_HOW_TO}") from None
        raise
    return client


def open_client(settings: DatastoreSettings, *, create: bool = False) -> Client:
    """Like `connect`, without reaching for it: for who retries by itself."""
    if settings.type is DatastoreType.EMBEDDED:
        return EmbeddedClient(settings.embedded_path, create=create)
    if settings.type is None or not (settings.endpoints or settings.discovery_domain):
        raise NotFound(f"no datastore is configured: {_HOW_TO}")
    # Here, because it imports HTTP/2 and TLS, which the embedded datastore needs not.
    from tortie.datastore.etcd import Discovery, EtcdClient, Login, TLSFiles, TLSText

    login = Login(settings.username, settings.password) if settings.username else None
    text = TLSText(settings.ca, settings.certificate, settings.key)
    files = TLSFiles(settings.ca_file, settings.certificate_file, settings.key_file)
    domain = settings.discovery_domain
    return EtcdClient(
        Discovery(domain) if domain else settings.endpoints,
        tls=text if any(text) else files,
        login=login,
    )


def _merged(environment: Mapping[str, str], file: Mapping[str, str]) -> dict[str, str]:
    """What is set. Where the environment says a thing one way, the file's other way is not used.

    Raises:
        InvalidInput: the environment, or the file, says a thing in both ways.
    """
    given = {name: environment[name] for name in _FILE_FIELDS.values() if environment.get(name)}
    merged = {**file, **given}
    for one, other in _ALTERNATIVES:
        for way, unused in ((one, other), (other, one)):
            if not given.keys() & way:
                continue
            _check_one_way(given, one, other)
            for name in unused:
                merged.pop(name, None)
        _check_one_way(merged, one, other)
    if bool(merged.get("etcdKey")) != bool(merged.get("etcdCert")):
        raise InvalidInput("etcdKey and etcdCert: one needs the other")
    return merged


def _check_one_way(values: Mapping[str, str], one: tuple[str, ...], other: tuple[str, ...]) -> None:
    if values.keys() & one and values.keys() & other:
        both = ", ".join(name for name in (*one, *other) if name in values)
        raise InvalidInput(f"{both}: two ways to say one thing; use one of them")


def _from_file(config_file: Path | None) -> dict[str, str]:
    path = config_file or DEFAULT_CONFIG_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        if config_file is None:
            return {}
        raise NotFound(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {error}") from None
    spec = _spec(path, text)
    values: dict[str, str] = {}
    for field, name in (*_FILE_FIELDS.items(), *((name, name) for name in _INLINE_FIELDS)):
        value = spec.get(field, "")
        if not isinstance(value, str):
            raise InvalidInput(f"{path}: spec.{field} must be text")
        if value:
            values[name] = value
    return values


def _spec(path: Path, text: str) -> dict[str, object]:
    # Slow to import, and most have no such file. Depth and size are bounded there.
    from tortie.model.positions import TextSyntax, read_documents

    try:
        documents = read_documents(text)
    except TextSyntax as error:
        # Its own text may quote from the file, and there are passwords in it.
        line, column = error.place
        raise InvalidInput(f"{path}: line {line}, column {column}: not YAML") from None
    document = documents[0].value if len(documents) == 1 else None
    if not isinstance(document, dict) or document.get("kind") != "CalicoAPIConfig":
        raise InvalidInput(f"{path}: kind must be CalicoAPIConfig")
    spec = document.get("spec") or {}
    if not isinstance(spec, dict):
        raise InvalidInput(f"{path}: spec must be a mapping")
    return spec


def _type(values: Mapping[str, str], embedded_path: Path) -> DatastoreType | None:
    named = values.get("DATASTORE_TYPE", "")
    if not named:
        if "ETCD_ENDPOINTS" in values or "ETCD_DISCOVERY_SRV" in values:
            return DatastoreType.ETCDV3
        if "TORTIE_EMBEDDED_PATH" in values or embedded_path.exists():
            return DatastoreType.EMBEDDED
        return None
    try:
        return DatastoreType(named)
    except ValueError:
        raise InvalidInput(f"DATASTORE_TYPE is {named!r}; it must be etcdv3 or embedded") from None


def _path(values: Mapping[str, str], name: str) -> Path | None:
    return Path(values[name]) if name in values else None
