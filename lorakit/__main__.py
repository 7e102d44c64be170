"""`python -m lorakit` is the command `lorakit`."""

from __future__ import annotations

import sys

from lorakit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
