"""``python -m exporter``: the command `exporter`."""

import sys

from exporter.commands.app import main

if __name__ == "__main__":
    sys.exit(main())
