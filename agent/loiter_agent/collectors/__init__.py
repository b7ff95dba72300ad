"""Collectors: each reads one part of the host in a tick. `sampler` runs them and says how each fared."""
