"""Measurements of `offload` against its peers and against the floor."""
