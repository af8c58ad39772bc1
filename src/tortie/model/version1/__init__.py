"""Calico's API before v3.0 (`apiVersion: v1`, kinds in lower case) as today's resources.

Pure functions over what a file says: no datastore, no I/O. Only for `tortie convert`; nothing
of that API is ever stored.
"""
