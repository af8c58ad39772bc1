"""OpenStack: what Neutron knows, in the datastore, as Calico lays it out there.

    inventory   what this package asks Neutron's database for, and the answers' structs
    settings    the `[calico]` options
    endpoints   port → WorkloadEndpoint, LiveMigration (pure)
    policies    security group → NetworkPolicy (pure)
    subnets     subnet → the DHCP agents' key (pure)

Everything here runs in threads of neutron-server, under WSGI or under eventlet, before and
after forks: no asyncio, no gRPC, no socket or lock that two processes share. Nothing here
imports Neutron; what does, is the mechanism driver's.
"""
