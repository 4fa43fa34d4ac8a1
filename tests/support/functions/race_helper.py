"""A module that starts a process when it is imported, as some do; for the supervisor to preload."""

import subprocess
import sys

helper = subprocess.Popen(
    [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
)
