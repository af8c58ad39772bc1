"""What calc tells a dataplane: this host's desired state, object by object.

A dataplane hears `(kind, name, value)`; value None means gone. Objects may
refer only to objects of kinds before theirs, and arrive in that order.
"""
