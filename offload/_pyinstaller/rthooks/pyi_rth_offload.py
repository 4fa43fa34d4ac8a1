"""Runs before the program: as a process of a pool, it never comes to the program's own code."""

import sys

if sys.argv[1:2] == ["--offload-child"]:
    __import__("offload")  # takes over
