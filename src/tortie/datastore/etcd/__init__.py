"""etcd v3 over gRPC, with our own definitions of the few messages we use.

    wire        protobuf's wire format: varints and lengths
    messages    etcd's requests and responses in it
    status      gRPC status → our errors
    transport   channels: endpoints, TLS, tokens, time-outs, keep-alive
    client      the `Client` made of these

No generated code and no protobuf package: that would pin the protobuf runtime,
and collide in its descriptor pool with other etcd clients in one process.
Importing this package imports gRPC (0.1 s, 30 MB), so only `connect` does.
"""

from tortie.datastore.etcd.client import EtcdClient
from tortie.datastore.etcd.transport import Login, Timing, TLSFiles

__all__ = ["EtcdClient", "Login", "TLSFiles", "Timing"]
