"""Command line of the bench models: ``python -m lorakit.bench_model write FILE`` and others (``--help``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lorakit.bench_model.commands import COMMANDS, register
from lorakit.errors import LorakitError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        {"write": _write, **COMMANDS}[options.command](options)
    except LorakitError as error:
        print(f"error: {error.what}", file=sys.stderr)
        for label, text in (("why", error.why), ("todo", error.todo)):
            if text:
                print(f"  {label}: {text}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lorakit.bench_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write a small SDXL checkpoint")
    write.add_argument("file", type=Path)
    write.add_argument("--seed", type=int, default=0)
    write.add_argument(
        "--size",
        choices=("tiny", "slim", "full", "learned"),
        default="tiny",
        help="with random weights, tiny: as fast as possible; slim: SDXL's depth, small width; full: SDXL's size"
        " (7 GB in bf16). learned: the trained model, which draws coloured shapes",
    )
    write.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="fp16")
    register(commands)
    return parser


def _write(options: argparse.Namespace) -> None:
    from lorakit.bench_model.writer import DTYPES, write_checkpoint

    if options.size == "learned":
        from lorakit.bench_model.learned import write_learned

        size = write_learned(options.file, dtype=DTYPES[options.dtype][0])
        print(f"{options.file}: SDXL that has learned coloured shapes, {options.dtype}, {size:,} bytes")
        return
    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total
        if percent >= shown + 10 or (done == total and shown < 100):
            shown = percent
            print(f"{percent:3d}%  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", file=sys.stderr)

    size = write_checkpoint(options.file, size=options.size, dtype=options.dtype, seed=options.seed, progress=progress)
    print(f"{options.file}: {options.size} SDXL with random weights, {options.dtype}, {size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
