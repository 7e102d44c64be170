"""Tells what works in the trainer's environment: runs inside it (stdlib only), prints one JSON object as its last line."""

from __future__ import annotations

import json
import platform
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

#: What the script cannot be imported without, by the names of the modules.
NEEDED = (
    "torch", "torchvision", "accelerate", "transformers", "diffusers", "cv2", "numpy", "PIL", "imagesize", "toml",
    "voluptuous", "einops", "safetensors", "tqdm", "packaging",
)  # fmt: skip


def main() -> None:
    """Print what there is; a module that cannot be imported is named with its error."""
    told: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "missing": [name for name in NEEDED if find_spec(name) is None],
    }
    for name in ("torch", "accelerate", "cv2", "xformers", "bitsandbytes"):
        told[name] = _module(name)
    told["cuda"] = _cuda() if told["torch"].get("version") else {}
    if told["bitsandbytes"].get("version") and told["torch"].get("version"):
        told["bitsandbytes"].update(_bitsandbytes(bool(told["cuda"].get("available"))))
    print(json.dumps(told))


def _module(name: str) -> dict[str, str]:
    if find_spec(name) is None:
        return {}
    try:
        module = import_module(name)
    except Exception as error:  # noqa: BLE001 (a package that is broken may raise anything: that is the answer)
        return {"error": f"{type(error).__name__}: {error}"}
    return {"version": str(getattr(module, "__version__", "?"))}


def _cuda() -> dict[str, Any]:
    torch = import_module("torch")
    available = bool(torch.cuda.is_available())
    cards = []
    for index in range(torch.cuda.device_count() if available else 0):
        free, total = torch.cuda.mem_get_info(index)
        cards.append({"name": torch.cuda.get_device_name(index), "free": free, "total": total})
    return {"build": torch.version.cuda or getattr(torch.version, "hip", None), "available": available, "cards": cards}


def _bitsandbytes(cuda: bool) -> dict[str, Any]:
    """Whether an 8-bit optimizer really makes a step; small tensors would be kept in 32 bits."""
    torch, bitsandbytes = import_module("torch"), import_module("bitsandbytes")
    device = "cuda" if cuda else "cpu"
    try:
        weight = torch.nn.Parameter(torch.ones(128, 64, device=device))
        optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=0.1)
        weight.sum().backward()
        optimizer.step()
        moved = bool((weight != 1).all())
    except Exception as error:  # noqa: BLE001 (whatever its library raises is the answer)
        return {"error": f"{type(error).__name__}: {error}"}
    return {"device": device} if moved else {"error": "a step changed nothing"}


if __name__ == "__main__":
    main()
