"""Labelled lists of networks that selectors can select."""

from tortie.model.metadata import Resource, Spec


class NetworkSetSpec(Spec, frozen=True, kw_only=True):
    nets: tuple[str, ...] = ()


class NetworkSet(Resource, frozen=True, kw_only=True):
    spec: NetworkSetSpec = NetworkSetSpec()


class GlobalNetworkSet(Resource, frozen=True, kw_only=True):
    spec: NetworkSetSpec = NetworkSetSpec()
