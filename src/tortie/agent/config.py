"""Where each setting of the agent comes from, and what it is.

Highest first: environment `FELIX_*`, the file `/etc/calico/felix.cfg`, the
FelixConfiguration `node.<host>`, those with a `nodeSelector` that fits this
node (by name), `default`, and the built-in default. A value that does not
parse counts as not set, and is logged.
"""

import configparser
import logging
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tortie.agent.parameters import (
    BY_NAME,
    BY_YAML_NAME,
    PARAMETERS,
    parse_parameter,
    parse_yaml_value,
    workload_prefixes,
)
from tortie.lib.errors import InvalidInput
from tortie.selector.syntax import parse

log = logging.getLogger(__name__)

FELIX_CFG = Path("/etc/calico/felix.cfg")


class Value(NamedTuple):
    value: Any
    origin: str
    """`environment`, the file's name, the FelixConfiguration's name, or `default`."""


class Config:
    """Every parameter's value and origin; immutable once made."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name].value

    def origin(self, name: str) -> str:
        return self._values[name].origin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(tuple(self.settings.items()))

    @property
    def settings(self) -> dict[str, Any]:
        return {name: found.value for name, found in self._values.items()}

    @property
    def host(self) -> str:
        """This host's name in the datastore. Calico lower-cases it."""
        name: str = self["FelixHostname"] or socket.gethostname()
        return name.lower()

    @property
    def workload_prefixes(self) -> tuple[str, ...]:
        """Of workloads' interfaces; those that are made here have the first."""
        return workload_prefixes(self["InterfacePrefix"])

    @property
    def region(self) -> str:
        return f"region-{self['OpenstackRegion']}" if self["OpenstackRegion"] else "no-region"


class Local(NamedTuple):
    """What this machine says, read once at start."""

    environment: Mapping[str, str]
    file: Mapping[str, str]
    file_name: str


def read_local(environment: Mapping[str, str], path: Path = FELIX_CFG) -> Local:
    """Read `FELIX_*` and the file; names are kept in lower case.

    Raises:
        InvalidInput: the file is there and is not an INI file.
    """
    settings = {
        name[len("felix_") :].lower(): value
        for name, value in environment.items()
        if name.lower().startswith("felix_")
    }
    # Calico's node container makes the one of the other; so all programs of a host agree.
    if name := environment.get("NODENAME") or environment.get("CALICO_NODENAME"):
        settings.setdefault("felixhostname", name)
    return Local(settings, _read_file(path), str(path))


def _read_file(path: Path) -> Mapping[str, str]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text, source=str(path))
    except configparser.Error as error:
        raise InvalidInput(f"{path}: {' '.join(str(error).split())}") from None
    return {
        name.lower(): value
        for section in parser.sections()
        for name, value in parser[section].items()
    }


def resolve(
    local: Local,
    stored: Iterable[tuple[str, Mapping[str, Any]]] = (),
    node_labels: Mapping[str, str] | None = None,
) -> Config:
    """All settings, from what the machine says and from FelixConfigurations.

    Args:
        stored: name and spec (plain JSON) of each FelixConfiguration.
        node_labels: of this host's Node; None when it has none.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("environment", _parsed(local.environment, "environment")),
        (local.file_name, _parsed(local.file, local.file_name)),
    ]
    host_name = next(
        (layer["FelixHostname"] for _, layer in layers if layer.get("FelixHostname")),
        socket.gethostname(),
    ).lower()
    layers.extend(_stored_layers(dict(stored), host_name, node_labels or {}))
    values = {}
    for parameter in PARAMETERS:
        values[parameter.name] = next(
            (
                Value(layer[parameter.name], origin)
                for origin, layer in layers
                if parameter.name in layer
            ),
            Value(parameter.default, "default"),
        )
    return Config(values)


def _parsed(texts: Mapping[str, str], origin: str) -> dict[str, Any]:
    values = {}
    for name, text in texts.items():
        parameter = BY_NAME.get(name)
        if parameter is None:
            log.debug("%s: %s is not a setting of this agent; ignored", origin, name)
            continue
        try:
            values[parameter.name] = parse_parameter(parameter, text, origin)
        except InvalidInput as error:
            log.warning("%s; ignored", error)
    return values


def _stored_layers(
    stored: Mapping[str, Mapping[str, Any]], host: str, node_labels: Mapping[str, str]
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    selected = [
        name
        for name, spec in sorted(stored.items())
        if name != "default" and not name.startswith("node.") and _selects(name, spec, node_labels)
    ]
    for name in [f"node.{host}", *selected, "default"]:
        if name in stored:
            yield f"FelixConfiguration({name})", _parsed_spec(name, stored[name])


def _selects(name: str, spec: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    selector = spec.get("nodeSelector", "")
    try:
        return bool(selector) and parse(selector).matches(labels)
    except InvalidInput as error:
        log.warning("FelixConfiguration(%s): nodeSelector: %s; ignored", name, error)
        return False


def _parsed_spec(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for field, value in spec.items():
        parameter = BY_YAML_NAME.get(field)
        if parameter is None or value is None:
            continue
        try:
            values[parameter.name] = parse_yaml_value(
                parameter, msgspec.to_builtins(value), f"FelixConfiguration({name})"
            )
        except (InvalidInput, KeyError, TypeError) as error:
            log.warning("%s; ignored", error)
    return values
