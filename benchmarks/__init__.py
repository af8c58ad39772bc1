"""Measurements, repeatable; never assertions. `make bench` runs all of them."""
