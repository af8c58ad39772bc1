"""Where each setting of the Docker service comes from: Calico's environment, and our options.

Source: Calico, libnetwork-plugin/driver, the CALICO_LIBNETWORK_* variables.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from tortie.attach.requests import MTU_MAX, MTU_MIN
from tortie.lib.errors import InvalidInput
from tortie.model.names import is_interface_name

Scope = Literal["local", "global"]
"""`global` needs a Docker that has a cluster store (before 23), or swarm mode."""

_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no", ""})


class Settings(NamedTuple):
    host: str
    """The agent's name of this host."""
    agent: Path
    """The agent's attach socket."""
    docker: Path
    """Docker's API socket."""
    plugins: Path
    """Directory in which Docker looks for plugins."""
    swarm: Path
    """Socket for the managed plugin of swarm mode."""
    state: Path
    """What must outlive a reboot."""
    scope: Scope = "local"
    create_profiles: bool = True
    label_endpoints: bool = True
    """Calico's own plugin has false here, for it loses labels at times."""
    patience_seconds: float = 5.0
    """How long labels may stay unknown before the log says so."""
    interface_prefix: str = ""
    """Of interfaces in containers; empty: `eth`, and `cali` for networks of driver `calico`."""
    mtu: int = 0
    """0: the kernel's default."""
    workload_prefix: str = "cali"
    """Of workload interfaces on this host; the agent's `InterfacePrefix`."""
    opens_forwarding: bool = True
    """Let our interfaces through Docker's FORWARD chain, where its policy is DROP."""


def from_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """
    Raises:
        InvalidInput: which variable is wrong, and what it may be.
    """
    text = {
        name.removeprefix("CALICO_LIBNETWORK_"): value
        for name, value in environment.items()
        if name.startswith("CALICO_LIBNETWORK_")
    }
    settings = settings._replace(
        create_profiles=_flag(text, "CREATE_PROFILES", settings.create_profiles),
        label_endpoints=_flag(text, "LABEL_ENDPOINTS", settings.label_endpoints),
    )
    if timeout := text.get("LABEL_POLL_TIMEOUT"):
        settings = settings._replace(patience_seconds=_seconds(timeout))
    if prefix := text.get("IFPREFIX"):
        # Docker appends a number.
        if not is_interface_name(prefix + "000"):
            raise InvalidInput(
                f"CALICO_LIBNETWORK_IFPREFIX is {prefix!r}; it must be the beginning of an "
                "interface's name, at most 12 characters"
            )
        settings = settings._replace(interface_prefix=prefix)
    if mtu := text.get("VETH_MTU"):
        if not mtu.isascii() or not mtu.isdecimal() or not MTU_MIN <= int(mtu) <= MTU_MAX:
            raise InvalidInput(
                f"CALICO_LIBNETWORK_VETH_MTU is {mtu!r}; it must be {MTU_MIN} to {MTU_MAX}"
            )
        settings = settings._replace(mtu=int(mtu))
    return settings


def _flag(text: Mapping[str, str], name: str, default: bool) -> bool:
    value = text.get(name)
    if value is None:
        return default
    if value.lower() not in _TRUE | _FALSE:
        raise InvalidInput(f"CALICO_LIBNETWORK_{name} is {value!r}; it must be true or false")
    return value.lower() in _TRUE


def _seconds(text: str) -> float:
    """Go's spelling, as in `5s`, `1500ms` or `1m`, or a plain number of seconds."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        number = text.removesuffix(unit)
        if text.endswith(unit) and number.replace(".", "", 1).isdecimal() and number.isascii():
            return float(number) * factor
    raise InvalidInput(
        f"CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT is {text!r}; it must be a time such as 5s"
    )
