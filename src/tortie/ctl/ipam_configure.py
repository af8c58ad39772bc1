"""`tortie ipam configure`: IPAM's settings, in the record that Calico reads with etcd."""

from __future__ import annotations

from typing import Any

import msgspec

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.datastore.client import Client
from tortie.lib.errors import InvalidInput
from tortie.model.keys import IPAMConfigKey

COOLDOWN_MAX_SECONDS = 1200

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
"""What Go reads as a boolean."""

_TITLES = {
    "strict_affinity": "StrictAffinity",
    "maxBlocksPerHost": "MaxBlocksPerHost",
    "kubeVirtVMAddressPersistence": "KubeVirtVMAddressPersistence",
    "ipCooldownSeconds": "IPCooldownSeconds",
}
"""By field of the record, the names in messages."""


def main(given: Given, screen: Screen) -> int:
    wanted = _wanted(given)
    if not wanted:
        raise InvalidInput("at least one configuration option must be specified")

    async def act(client: Client) -> None:
        path = IPAMConfigKey().path
        entry = await client.get(path)
        record = changed(entry.value if entry else b"{}", wanted)
        raw = msgspec.json.encode(record)
        if entry is None:
            await client.create(path, raw)
        else:
            await client.update(path, raw, mod_revision=entry.mod_revision)

    access.with_client(access.config_file(given), act)
    for name, value in wanted.items():
        shown = str(value).lower() if isinstance(value, bool) else value
        screen.print(f"Successfully set {_TITLES[name]} to: {shown}")
    return 0


def changed(raw: bytes, wanted: dict[str, Any]) -> dict[str, Any]:
    """
    Raises:
        InvalidInput: the settings would contradict one another.
    """
    try:
        record = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        record = None
    if not isinstance(record, dict):
        raise InvalidInput(
            f"IPAM's settings in the datastore are not a JSON object; delete the key "
            f"{IPAMConfigKey().path} to begin with the defaults"
        )
    defaults = {"strict_affinity": False, "auto_allocate_blocks": True}
    record = {**defaults, **record, **wanted}
    if not record["strict_affinity"] and not record["auto_allocate_blocks"]:
        raise InvalidInput(
            "without strict affinity, blocks must be allocated automatically: "
            "nothing else could assign addresses"
        )
    if record.get("maxBlocksPerHost") and not record["strict_affinity"]:
        raise InvalidInput("--max-blocks-per-host needs --strictaffinity=true")
    return record


def _wanted(given: Given) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if text := given.text("strictaffinity"):
        if text not in (*_TRUE, *_FALSE):
            raise InvalidInput("invalid value. Use true or false to set strictaffinity")
        wanted["strict_affinity"] = text in _TRUE
    if text := given.text("max-blocks-per-host"):
        if not (text.isascii() and text.isdecimal() and int(text[:12]) < 1 << 31):
            raise InvalidInput("invalid value for maxblockhost. Use a valid number")
        wanted["maxBlocksPerHost"] = int(text)
    if text := given.text("kubevirt-ip-persistence"):
        if text not in ("Enabled", "Disabled"):
            raise InvalidInput(
                "invalid value for --kubevirt-ip-persistence. Use Enabled or Disabled"
            )
        wanted["kubeVirtVMAddressPersistence"] = text
    if text := given.text("ip-cooldown-seconds"):
        is_number = text.isascii() and text.isdecimal() and len(text) < 10
        if not is_number or int(text) > COOLDOWN_MAX_SECONDS:
            raise InvalidInput(f"--ip-cooldown-seconds is 0 to {COOLDOWN_MAX_SECONDS}")
        wanted["ipCooldownSeconds"] = int(text)
    return wanted
