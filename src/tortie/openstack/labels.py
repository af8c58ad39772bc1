"""The names that OpenStack's things have in the datastore: labels, annotations, endpoints.

What users name freely in OpenStack becomes a label's value only after `label_text`, and part
of a key or a name only where it is of the plain characters that `is_plain` takes.

Source: Calico, networking-calico, datamodel_v3.py and drivers/calico/endpoints.py, policy.py.
"""

import re

from tortie.model.keys import ResourceKey
from tortie.model.names import LABEL_MAX_CHARACTERS

ORCHESTRATOR = "openstack"

GROUP_LABEL = "sg.projectcalico.org/openstack-"
"""Followed by a security group's id; the value is its name."""
GROUP_NAME_LABEL = "sg-name.projectcalico.org/openstack-"
"""Followed by a security group's name; the value is its id."""
GROUP_NAME_MAX_CHARACTERS = LABEL_MAX_CHARACTERS - len(GROUP_NAME_LABEL)

PROJECT_ID_LABEL = "projectcalico.org/openstack-project-id"
PROJECT_NAME_LABEL = "projectcalico.org/openstack-project-name"
PROJECT_PARENT_LABEL = "projectcalico.org/openstack-project-parent-id"
NETWORK_NAME_LABEL = "projectcalico.org/openstack-network-name"

NETWORK_ANNOTATION = "openstack.projectcalico.org/network-id"
FQDN_ANNOTATION = "openstack.projectcalico.org/fqdn"
DHCP_OPTIONS_ANNOTATION = "openstack.projectcalico.org/extra-dhcp-opts"
"""A JSON list of `extra_dhcp_opts`, for the DHCP agents; ours alone."""

GROUP_POLICY = "ossg.default."
"""Followed by a security group's id: the name of its policy."""

_PLAIN = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_NOT_IN_LABEL = re.compile("[^-_.A-Za-z0-9]")
_OUTER = "-_."


def label_text(text: str, longest: int = LABEL_MAX_CHARACTERS) -> str:
    """A user's text as the value of a label: what must not be there becomes `_`; may be empty."""
    return _NOT_IN_LABEL.sub("_", text[:longest]).strip(_OUTER)


def is_plain(text: str) -> bool:
    """May it be part of a key as it is? Ids and host names may."""
    return _PLAIN.fullmatch(text) is not None


def endpoint_name(host: str, device_id: str, port_id: str) -> str:
    """The name of a port's endpoint on a host; dashes inside the parts are doubled."""
    parts = (host, ORCHESTRATOR, device_id, port_id)
    return "-".join(part.replace("-", "--") for part in parts)


def endpoint_key(namespace: str, host: str, device_id: str, port_id: str) -> ResourceKey:
    return ResourceKey("WorkloadEndpoint", endpoint_name(host, device_id, port_id), namespace)


def port_of_endpoint(name: str) -> str:
    """The id of the port whose endpoint has this name; empty if it has no such form."""
    parts = name.replace("--", "\0").split("-")
    return parts[3].replace("\0", "-") if len(parts) == 4 else ""


def group_selector(group_id: str) -> str:
    return f"has({GROUP_LABEL}{group_id})"


def group_policy_key(namespace: str, group_id: str) -> ResourceKey:
    return ResourceKey("NetworkPolicy", f"{GROUP_POLICY}{group_id}", namespace)


def interface_name(port_id: str) -> str:
    """Of the tap that Nova makes for a port."""
    return f"tap{port_id[:11]}"
