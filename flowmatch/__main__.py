"""Run the command ``flowmatch`` as ``python -m flowmatch``."""

import sys

from flowmatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
