"""What cannot be enforced is said where users look: an Event, and a condition where there is one.

One report per object and text: a resync repeats nothing.

Source: Kubernetes, core/v1 Event; meta/v1 Condition.
"""

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

from tortie.kube.api import Api, Kind, Name
from tortie.kube.kinds import CLUSTER_POLICIES, EVENTS, kind_name
from tortie.lib.errors import AlreadyExists, TortieError
from tortie.model.kubernetes.fields import Object, mapping, objects, text

log = logging.getLogger(__name__)

CONDITION = "EnforcedByTortie"
REASON = "NotEnforced"
MESSAGE_CHARACTERS = 1000
"""An Event's message may have 1024."""


class Reports:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._said: dict[tuple[Kind, Name], tuple[str, ...]] = {}
        self._objects: dict[tuple[Kind, Name], Object] = {}
        """Those whose report is still to be made."""

    def note(self, kind: Kind, name: Name, object_: Object, problems: tuple[str, ...]) -> bool:
        """
        Returns:
            Whether `send` has something to do.
        """
        if kind in CLUSTER_POLICIES:
            if _has_condition(object_, problems):
                self._said[kind, name] = problems
                return False
        elif self._said.get((kind, name), ()) == problems:
            return False
        self._said[kind, name] = problems
        self._objects[kind, name] = object_
        return True

    def forget(self, kind: Kind, name: Name) -> None:
        self._said.pop((kind, name), None)
        self._objects.pop((kind, name), None)

    async def send(self, kind: Kind, name: Name) -> None:
        """
        Raises:
            TortieError: try again later.
        """
        object_ = self._objects.get((kind, name))
        if object_ is None:
            return
        problems = self._said.get((kind, name), ())
        for problem in problems:
            log.warning("not enforced", extra={"fields": {"object": f"{kind} {name}: {problem}"}})
        if problems:
            await self._send_event(kind, name, object_, "; ".join(problems))
        if kind in CLUSTER_POLICIES:
            await self._set_condition(kind, name, object_, problems)
        if self._objects.get((kind, name)) is object_:
            del self._objects[kind, name]

    async def _send_event(self, kind: Kind, name: Name, object_: Object, message: str) -> None:
        source = mapping(object_, "metadata")
        digest = hashlib.sha256(f"{text(source, 'uid')} {message}".encode()).hexdigest()[:16]
        namespace = name.namespace or "default"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name.name[:200]}.{digest}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": f"{kind.group}/{kind.version}" if kind.group else kind.version,
                "kind": kind_name(kind),
                "name": name.name,
                "namespace": name.namespace,
                "uid": text(source, "uid"),
                "resourceVersion": text(source, "resourceVersion"),
            },
            "reason": REASON,
            "message": message[:MESSAGE_CHARACTERS],
            "type": "Warning",
            "source": {"component": "tortie"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        where = Name(namespace, "")
        try:
            await self._api.create(EVENTS, where, event)
        except AlreadyExists:  # said before we were restarted
            at = Name(namespace, f"{name.name[:200]}.{digest}")
            await self._api.patch(EVENTS, at, {"lastTimestamp": now})

    async def _set_condition(
        self, kind: Kind, name: Name, object_: Object, problems: tuple[str, ...]
    ) -> None:
        others = [c for c in _conditions(object_) if c.get("type") != CONDITION]
        generation = mapping(object_, "metadata").get("generation", 0)
        made = _condition(problems) | {
            "observedGeneration": generation,
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body = {
            "metadata": {"resourceVersion": text(mapping(object_, "metadata"), "resourceVersion")},
            "status": {"conditions": [*others, made]},
        }
        await self._api.patch(kind, name, body, subresource="status")


async def quietly(reports: Reports, kind: Kind, name: Name) -> None:
    """Send; what cannot be said does not keep anything from being enforced."""
    try:
        await reports.send(kind, name)
    except TortieError as error:
        log.warning("cannot report on %s %s: %s", kind, name, error)


def _conditions(object_: Object) -> list[Object]:
    return objects(mapping(object_, "status"), "conditions")


def _condition(problems: tuple[str, ...]) -> dict[str, Any]:
    if problems:
        message = "; ".join(problems)[:MESSAGE_CHARACTERS]
        return {"type": CONDITION, "status": "False", "reason": REASON, "message": message}
    return {"type": CONDITION, "status": "True", "reason": "Enforced", "message": ""}


def _has_condition(object_: Object, problems: tuple[str, ...]) -> bool:
    wanted = _condition(problems)
    generation = mapping(object_, "metadata").get("generation", 0)
    return any(
        all(found.get(field, "") == value for field, value in wanted.items())
        and found.get("observedGeneration", 0) == generation
        for found in _conditions(object_)
    )
