"""Labelled lists of networks that selectors can select."""

from tortie.model.metadata import Resource, Spec


class NetworkSetSpec(Spec):
    nets: tuple[str, ...] = ()


class NetworkSet(Resource):
    spec: NetworkSetSpec = NetworkSetSpec()


class GlobalNetworkSet(Resource):
    spec: NetworkSetSpec = NetworkSetSpec()
