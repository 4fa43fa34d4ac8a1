"""Has no threads; tells which process has imported it."""

import os

LOADED_BY = os.getpid()
