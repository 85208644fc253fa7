"""``python -m flowmatch`` is the command ``flowmatch``."""

import sys

from flowmatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
