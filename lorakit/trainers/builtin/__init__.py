"""The built-in trainer: a program of its own that takes sdxl_train_network.py's arguments."""

from __future__ import annotations

import logging

# bitsandbytes, which diffusers imports, warns on every start about a 4-bit kernel that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "gemm_4bit_forward" not in record.getMessage()
)
