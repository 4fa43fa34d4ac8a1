"""The border between a pool and its workers: what both ends of a socket know."""
