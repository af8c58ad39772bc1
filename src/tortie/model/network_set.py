"""Labelled lists of networks that selectors can select."""

from typing import Annotated

from tortie.model.limits import PRESENT, Limits
from tortie.model.metadata import Resource, Spec


class NetworkSetSpec(Spec, frozen=True, kw_only=True):
    nets: Annotated[tuple[str, ...], Limits(unique=True)] = ()


class NetworkSet(Resource, frozen=True, kw_only=True):
    spec: Annotated[NetworkSetSpec, PRESENT] = NetworkSetSpec()


class GlobalNetworkSet(Resource, frozen=True, kw_only=True):
    spec: Annotated[NetworkSetSpec, PRESENT] = NetworkSetSpec()
