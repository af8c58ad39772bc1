"""What every resource has: kind, API version, metadata.

Structs mirror the `projectcalico.org/v3` JSON: attribute `ip_networks` is
field `ipNetworks`. They are frozen; a change makes a new value. Addresses and
selectors stay text here, as users wrote them; `tortie.model.validation`
checks that they parse, and `calc` parses them once per change.
"""

import msgspec

API_VERSION = "projectcalico.org/v3"


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Kubernetes-style object metadata, the part that Calico keeps."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    """The datastore's mod_revision; set when read, never stored."""
    generation: int = 0
    creation_timestamp: str | None = None
    """RFC 3339, UTC, whole seconds."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A resource: subclasses add `spec`, and their kind and plural as class constants."""

    kind: str = ""
    api_version: str = API_VERSION
    metadata: Metadata = Metadata()


class Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of a resource: fields in camel case, absent when at their default."""
