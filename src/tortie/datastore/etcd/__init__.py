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
Importing this package imports `h2` and `ssl`, so only `connect` does, and only
where the datastore is etcd.
"""

from tortie.datastore.etcd.client import EtcdClient
from tortie.datastore.etcd.tls import TLSFiles, TLSText
from tortie.datastore.etcd.transport import Discovery, Login, Timing

__all__ = ["Discovery", "EtcdClient", "Login", "TLSFiles", "TLSText", "Timing"]
