"""Command line of the bench model: ``python -m lorakit.bench_model write FILE``, ``… demo DIR`` and ``… concepts DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lorakit.errors import LorakitError, UsageError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        {"write": _write, "demo": _demo, "concepts": _concepts}[options.command](options)
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
    write = commands.add_parser("write", help="write an SDXL checkpoint with random weights")
    write.add_argument("file", type=Path)
    write.add_argument("--seed", type=int, default=0)
    write.add_argument(
        "--size",
        choices=("tiny", "slim", "full"),
        default="tiny",
        help="tiny: as fast as possible; slim: SDXL's depth, small width; full: SDXL's size (7 GB in bf16)",
    )
    write.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="fp16")
    demo = commands.add_parser("demo", help="write the small demo data set")
    demo.add_argument("dir", type=Path)
    demo.add_argument("--seed", type=int, default=0)
    concepts = commands.add_parser("concepts", help="write data sets of things to learn, of coloured shapes")
    concepts.add_argument("dir", type=Path)
    concepts.add_argument("names", nargs="*", help="of zorp, nocturne, vexed, reg; all when left out")
    concepts.add_argument("--seed", type=int, default=0)
    return parser


def _write(options: argparse.Namespace) -> None:
    from lorakit.bench_model.writer import write_checkpoint

    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total
        if percent >= shown + 10 or (done == total and shown < 100):
            shown = percent
            print(f"{percent:3d}%  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", file=sys.stderr)

    size = write_checkpoint(options.file, size=options.size, dtype=options.dtype, seed=options.seed, progress=progress)
    print(f"{options.file}: {options.size} SDXL with random weights, {options.dtype}, {size:,} bytes")


def _demo(options: argparse.Namespace) -> None:
    from lorakit.bench_model.demo import write_demo

    images = write_demo(options.dir, seed=options.seed)
    print(f"{options.dir}: {images} images with captions")


def _concepts(options: argparse.Namespace) -> None:
    from lorakit.bench_model.concepts import CONCEPTS, write_concepts

    unknown = [name for name in options.names if name not in CONCEPTS]
    if unknown:
        raise UsageError(f"no concept is called {unknown[0]!r}", todo=f"choose of {', '.join(CONCEPTS)}")
    count = write_concepts(options.dir, seed=options.seed, names=options.names)
    print(f"{options.dir}: {count} pictures with captions")


if __name__ == "__main__":
    sys.exit(main())
