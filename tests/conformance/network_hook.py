"""Runs the trainer's script and tells what network it made: runs in the environment of sd-scripts, stdlib and torch.

    network_hook.py ARGUMENTS…

LORAKIT_SD_SCRIPTS names the checkout, LORAKIT_SD_SCRIPTS_SCRIPT the script. The network is drawn from seed 7, whatever was
drawn before; what it starts with is written to network.json beside the output folder. Changes no file of the trainer.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["SEED"]

SEED = 7


def main() -> None:
    """Wrap the module's ``create_network``, then run the script."""
    sys.path.insert(0, os.environ["LORAKIT_SD_SCRIPTS"])
    import torch

    module: Any = importlib.import_module(_value("--network_module"))
    create: Callable[..., Any] = module.create_network
    out = Path(_value("--output_dir")).parent / "network.json"

    def seeded(*args: Any, **kwargs: Any) -> Any:
        torch.manual_seed(SEED)
        network = create(*args, **kwargs)
        prepare = network.prepare_optimizer_params

        def watched(*args: Any, **kwargs: Any) -> Any:
            start = {
                name: [list(tensor.shape), float(tensor.double().sum()), float(tensor.double().square().sum())]
                for name, tensor in network.state_dict().items()
            }
            told = prepare(*args, **kwargs)
            several = isinstance(told, tuple)
            groups = list(told[0] if several else told)
            for group in groups:
                group["params"] = list(group["params"])
            names = told[1] if several and isinstance(told[1], list) else [None] * len(groups)
            sizes = [
                [name, group.get("lr"), len(group["params"]), sum(weight.numel() for weight in group["params"])]
                for name, group in zip(names, groups, strict=True)
            ]
            out.write_text(json.dumps({"groups": sizes, "start": start}), encoding="utf-8")
            return (groups, *told[1:]) if several else groups

        network.prepare_optimizer_params = watched
        return network

    module.create_network = seeded
    sys.argv[0] = os.environ["LORAKIT_SD_SCRIPTS_SCRIPT"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _value(option: str) -> str:
    return sys.argv[sys.argv.index(option) + 1]


if __name__ == "__main__":
    main()
