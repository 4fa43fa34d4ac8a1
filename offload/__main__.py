"""`python -m offload`."""

import sys

from offload._cli import main

if __name__ == "__main__":
    sys.exit(main())
