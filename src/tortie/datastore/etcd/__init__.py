"""etcd v3 over gRPC, with our own definitions of the few messages we use.

    wire        protobuf's wire format: varints and lengths
    messages    etcd's requests and responses in it
    http2       gRPC calls over one HTTP/2 connection, with keep-alive
    status      gRPC status → our errors
    tls         certificates from files or text
    discovery   endpoints from SRV records
    transport   which connection: endpoints, tokens, time-outs
    client      the `Client` made of these

No generated code and no protobuf package: that would pin the protobuf runtime,
and collide in its descriptor pool with other etcd clients in one process.
What is exported here is imported when it is first asked for: the client imports `h2` and
`asyncio`, which not every user of the messages, of `status` or of `tls` wants.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tortie.datastore.etcd.client import EtcdClient
    from tortie.datastore.etcd.tls import TLSFiles, TLSText
    from tortie.datastore.etcd.transport import Discovery, Login, Timing

__all__ = ["Discovery", "EtcdClient", "Login", "TLSFiles", "TLSText", "Timing"]

_MODULES = {
    "Discovery": "transport",
    "EtcdClient": "client",
    "Login": "transport",
    "TLSFiles": "tls",
    "TLSText": "tls",
    "Timing": "transport",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
