"""What holds for every test: one thread for torch, no hub, no colours, no terminal of the developer's own."""

from __future__ import annotations

import os

from hypothesis import settings

# Set before anything imports torch; two threads per process on two cores fight, see docs/performance.md.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# A second or two for each of hundreds of bakes; tests of the page switch it on.
os.environ["LORAKIT_REPORT"] = "off"
for name in ("FORCE_COLOR", "COLUMNS", "LORAKIT_PROGRESS", "LORAKIT_STOP_FILE"):
    os.environ.pop(name, None)

# The same examples at every run; `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("repeat")
