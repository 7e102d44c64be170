"""What holds for every test: one thread for torch, no hub, no colours, no terminal of the developer's own."""

from __future__ import annotations

import os

# Set before anything imports torch; two threads per process on two cores fight, see docs/performance.md.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("FORCE_COLOR", "COLUMNS", "LORAKIT_PROGRESS", "LORAKIT_STOP_FILE"):
    os.environ.pop(name, None)
