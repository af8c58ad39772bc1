"""What the agent writes down for times when its datastore is out of reach.

Settings that decide which kernel objects are ours may be stored in a
FelixConfiguration; `tortie node close` at boot and `tortie node uninstall` must
know them without it.
"""

from pathlib import Path

import msgspec

from tortie.agent.config import Config, Local, resolve
from tortie.dataplane.driver import unseen_rule
from tortie.kernel.rtnl.backend import Backend
from tortie.kernel.rtnl.route import TABLE_MAIN
from tortie.lib.files import replace_file

FILE = "host.json"


class Remembered(msgspec.Struct, frozen=True, rename="camel"):
    interface_prefix: str
    route_protocol: int
    """rtm_protocol of our routes."""


def remember(config: Config, state_directory: Path) -> None:
    """Write what this agent runs with, if that is news.

    Raises:
        Unavailable: it cannot be written.
    """
    now = Remembered(config["InterfacePrefix"], config["DeviceRouteProtocol"])
    if recall(state_directory) == now:
        return
    state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(state_directory / FILE, msgspec.json.encode(now), 0o644)


def adopt_routes(backend: Backend, former: Remembered | None, config: Config) -> int:
    """Give our routes of a former protocol number the one that counts now: else they would be
    somebody else's, for good. In place, so that none is missing meanwhile.

    Returns:
        How many there were.
    """
    now = config["DeviceRouteProtocol"]
    if former is None or former.route_protocol == now:
        return 0
    ours = backend.routes(table=TABLE_MAIN, protocol=former.route_protocol)
    outcomes = backend.replace_routes([msgspec.structs.replace(one, protocol=now) for one in ours])
    # What cannot be written anew now would be nobody's; whoever wants it writes it again.
    refused = [one for one, outcome in zip(ours, outcomes, strict=True) if outcome is not None]
    backend.delete_routes(refused)
    unseen_rule.remove(backend, former.route_protocol)
    return len(ours)


def recall(state_directory: Path) -> Remembered | None:
    """What the last agent ran with; None if there was none, or its note is damaged."""
    try:
        found = msgspec.json.decode((state_directory / FILE).read_bytes(), type=Remembered)
    except (OSError, msgspec.DecodeError):
        return None
    texts = {
        "interfaceprefix": found.interface_prefix,
        "devicerouteprotocol": str(found.route_protocol),
    }
    checked = resolve(Local(texts, {}, FILE))
    values = (checked["InterfacePrefix"], checked["DeviceRouteProtocol"])
    return found if values == (found.interface_prefix, found.route_protocol) else None
