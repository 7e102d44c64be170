"""Asks sd-scripts for its command line: runs inside the trainer's environment, in the folder of its checkout (stdlib only).

``python ask_parser.py OUT.json`` imports the script as it is, lets its parser print its help, and writes every option.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Write {"python": version, "options": [...]} to the file that is named on the command line."""
    target = os.path.abspath(sys.argv[1])
    sys.argv = ["sdxl_train_network.py"]
    sys.path[0] = os.getcwd()
    parser = import_module("sdxl_train_network").setup_parser()
    if "--pretrained_model_name_or_path" not in parser.format_help():
        sys.exit("its help does not name --pretrained_model_name_or_path")
    options = [_option(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    with open(target, "w", encoding="utf-8") as file:
        json.dump({"python": ".".join(map(str, sys.version_info[:3])), "options": options}, file)


def _option(action: argparse.Action) -> dict[str, Any]:
    default = action.default
    return {
        "flag": action.option_strings[0] if action.option_strings else action.dest,
        "dest": action.dest,
        "type": _type(action),
        "default": default if default is None or isinstance(default, (bool, int, float, str, list)) else str(default),
        "choices": None if action.choices is None else list(action.choices),
        "nargs": action.nargs,
    }


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "bool"
    if action.type is None:
        return "str"
    if action.type is pathlib.Path:
        return "Path"
    return getattr(action.type, "__name__", "str")


if __name__ == "__main__":
    main()
