"""A network is a profile: its members reach one another, and out. Pure, but for `Profiles`.

The profile has the network's name, and gives its members a label of that name, so networks of
one name on several hosts are one, and policies say `has(frontend)`. CNI's networks do the same.
Of an `--internal` network the members reach one another only.
"""

import contextlib
import hashlib
import re
from collections.abc import Mapping

from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.lib.errors import AlreadyExists, NotFound
from tortie.model.keys import RESOURCES, ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.names import is_label_key, is_label_value, is_name
from tortie.model.policy import EntityRule, Profile, ProfileSpec, Rule
from tortie.model.validation import check

LABEL_PREFIX = "org.projectcalico.label."
"""Source: Calico, libnetwork-plugin/driver/network_driver.go."""

_RESERVED_LABELS = "projectcalico.org/"
_RESERVED_NAMES = ("kns.", "ksa.", "projectcalico-")
"""Profiles that are not ours to lend: of namespaces, of service accounts, and built in."""

_NOT_IN_NAMES = re.compile("[^a-z0-9]+")
_POLICIES = ("globalnetworkpolicies", "networkpolicies")


def label_name(network: str) -> str:
    """The label of a network's members: its name, if that can be one."""
    return network if is_label_key(network) else profile_name(network)[:63].rstrip("-.")


def profile_name(network: str, *, internal: bool = False) -> str:
    """The same for the same name on every host; `proj_default` cannot be one as it is."""
    suffix = ".internal" if internal else ""
    is_legal = is_name("Profile", network) and not network.startswith(_RESERVED_NAMES)
    if is_legal and not network.endswith(".internal"):
        return network + suffix
    plain = _NOT_IN_NAMES.sub("-", network.lower()).strip("-")[:40].rstrip("-")
    digest = hashlib.sha256(network.encode()).hexdigest()[:8]
    return "-".join(part for part in ("docker", plain, digest) if part) + suffix


def network_profile(network: str, *, internal: bool = False) -> Profile:
    label = label_name(network)
    members = EntityRule(selector=f"has({label})")
    to = members if internal else EntityRule()
    profile = Profile(
        kind="Profile",
        metadata=Metadata(name=profile_name(network, internal=internal)),
        spec=ProfileSpec(
            ingress=(Rule(action="Allow", source=members),),
            egress=(Rule(action="Allow", destination=to),),
            labels_to_apply={label: ""},
        ),
    )
    check(profile)
    return profile


def endpoint_labels(labels: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A container's labels that are for us, as the endpoint's; and those that cannot be labels."""
    found, bad = {}, []
    for name, value in labels.items():
        key = name.removeprefix(LABEL_PREFIX)
        if key == name:
            continue
        legal = is_label_key(key) and is_label_value(value) and not key.startswith(_RESERVED_LABELS)
        if legal:
            found[key] = value
        else:
            bad.append(f"{key}={value}")
    return found, bad


class Profiles:
    """What the driver needs of the datastore."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._resources = Resources(client)

    async def ensure(self, network: str, *, internal: bool) -> str:
        """Make the network's profile if it is not there, and return its name.

        Raises:
            Unavailable: the datastore is away.
        """
        profile = network_profile(network, internal=internal)
        name = profile.metadata.name
        try:
            await self._resources.get(ResourceKey("Profile", name))
        except NotFound:
            with contextlib.suppress(AlreadyExists):  # another host was faster
                await self._resources.create(profile)
        return name

    async def has_policies(self) -> bool:
        """May there be one that selects an endpoint by labels that we do not know yet?"""
        for plural in _POLICIES:
            if (await self._client.page(f"{RESOURCES}{plural}/", keys_only=True)).entries:
                return True
        return False
