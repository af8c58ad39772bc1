"""`qos.projectcalico.org/` annotations: limits of a pod's traffic. Pure.

Quantities are Kubernetes' (`10M`, `1Gi`). Source: Calico, libcalico-go/lib/backend/k8s/conversion,
handleQoSControlsAnnotations.
"""

import re
from collections.abc import Mapping
from decimal import Decimal

import msgspec

from tortie.attach.cni.failure import BAD_CONFIG, CNIFailure
from tortie.model.endpoint import QoSControls

PREFIX = "qos.projectcalico.org/"

_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_DSCP = re.compile("[0-9]{1,2}|[A-Za-z][A-Za-z0-9]{1,6}")
_FACTORS = {"": Decimal(1), "m": Decimal("0.001")}
_FACTORS |= {unit: Decimal(1000) ** (n + 1) for n, unit in enumerate("kMGTPE")}
_FACTORS |= {f"{unit}i": Decimal(1024) ** (n + 1) for n, unit in enumerate("KMGTPE")}


def qos_of(annotations: Mapping[str, str]) -> QoSControls | None:
    """None where nothing is asked for.

    Raises:
        CNIFailure: a value is no quantity; ranges are checked with the endpoint.
    """
    found: dict[str, int | str] = {}
    for field in msgspec.structs.fields(QoSControls):
        text = annotations.get(PREFIX + field.encode_name, "")
        if not text:
            continue
        if field.name == "dscp":
            found["dscp"] = _dscp(text)
        else:
            found[field.name] = _quantity(field.encode_name, text)
    return QoSControls(**found) if found else None  # type: ignore[arg-type]


def _dscp(text: str) -> int | str:
    """A number, or a name such as EF; which there are the dataplane knows."""
    if not _DSCP.fullmatch(text):
        raise CNIFailure(
            BAD_CONFIG,
            f"annotation {PREFIX}dscp is {text[:200]!r}; it must be 0 to 63, or a name such as EF",
        )
    return int(text) if text.isdecimal() else text


def _quantity(name: str, text: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise CNIFailure(
            BAD_CONFIG,
            f"annotation {PREFIX}{name} is {text[:200]!r}; it must be a number such as 10M",
        )
    return int(Decimal(match[1]) * _FACTORS[match[2] or ""])
