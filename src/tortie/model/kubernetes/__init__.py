"""Kubernetes' objects as our resources: pure functions over decoded JSON; no API server, no I/O.

What cannot be converted never allows more for it, and is told beside the result.
"""
