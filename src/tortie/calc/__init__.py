"""The datastore's state in, this host's desired state out: pure, synchronous, incremental.

`graph` wires the nodes; everything else here is one node or one pure part of one. What comes
out is a function of the current state only, never of how that state came about.
"""
