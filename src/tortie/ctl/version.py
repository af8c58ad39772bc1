"""`tortie version`: of this command, and of the cluster."""

from __future__ import annotations

import json
import re
import time
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.kinds import at
from tortie.ctl.plain import read
from tortie.ctl.screen import Screen
from tortie.ctl.selection import Selection
from tortie.lib.duration import parse_duration
from tortie.lib.errors import InvalidInput, TortieError

_COMMIT = re.compile("[0-9a-f]{40,64}")


def main(given: Given, screen: Screen) -> int:
    poll = _poll_seconds(given.text("poll", "0"))
    screen.print(f"Client Version:    {client_version()}")
    screen.print(f"Git commit:        {client_commit()}")
    if given.has("client"):
        return 0
    shown: tuple[str, str] = ("", "")
    while True:
        try:
            shown = _show(_cluster(given), shown, screen)
        except TortieError as error:
            text = f"Unable to retrieve Cluster Version or Type: {error}"
            if not poll:
                raise InvalidInput(text) from None
            screen.warn(text)
            shown = ("", "")
        if not poll:
            return 0
        screen.out.flush()
        time.sleep(poll)


def _poll_seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except InvalidInput:
        raise InvalidInput(f"Invalid poll duration specified: {text}") from None


def _show(cluster: Any, before: tuple[str, str], screen: Screen) -> tuple[str, str]:
    number = str(at(cluster, "spec.calicoVersion") or "unknown")
    kind = str(at(cluster, "spec.clusterType") or "unknown")
    if number != before[0]:
        screen.print(f"Cluster Version:   {number}")
    if kind != before[1]:
        screen.print(f"Cluster Type:      {kind}")
    return number, kind


def client_version() -> str:
    try:
        return version("tortie")
    except PackageNotFoundError:
        return "not installed"


def client_commit() -> str:
    """Of which this was installed, as far as the installation knows (PEP 610)."""
    try:
        text = distribution("tortie").read_text("direct_url.json") or "{}"
        origin = json.loads(text)
        commit = origin.get("vcs_info", {}).get("commit_id", "")
        url = str(origin.get("url", ""))
    except (PackageNotFoundError, ValueError, AttributeError):
        return "unknown"
    if not commit and origin.get("dir_info", {}).get("editable") and url.startswith("file:"):
        commit = _head(Path(unquote(urlsplit(url).path)) / ".git")
    return commit if _COMMIT.fullmatch(commit) else "unknown"


def _head(git: Path) -> str:
    """What is checked out; empty if that cannot be told."""
    try:
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")


def _cluster(given: Given) -> dict[str, Any]:
    chosen = [Selection("ClusterInformation", ("default",))]
    found = read(access.config_file(given), chosen, "", everywhere=False)
    if found.missing:
        raise InvalidInput(f"resource does not exist: {found.missing[0]} with error: <nil>")
    return found.items[0][0]
