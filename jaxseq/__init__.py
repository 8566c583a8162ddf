"""Sequence mixers for JAX: pure functions in `ops`, Flax modules in `modules`.

`registry.mixer(name)` gives the module of a paper by its name.
"""
