"""The trainer's own Python environment: made with uv where there is one, else with venv and pip."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.atomic import write_json
from lorakit.errors import DiskError, TrainerError, UsageError
from lorakit.trainers.sd_scripts.pin import version_of
from lorakit.trainers.sd_scripts.place import venv_python
from lorakit.trainers.sd_scripts.programs import Runner, answer

if TYPE_CHECKING:
    from lorakit.trainers.sd_scripts.pin import Pin

__all__ = ["DEFAULT_TORCH", "Base", "Environment", "base_python", "forget", "make_environment", "python_version"]

#: torch as the package index has it, which on Linux is a build for CUDA.
DEFAULT_TORCH: Final = "default"
#: In the environment once everything is in it: without this file it is made again from nothing, since an installer that was
#: killed leaves packages that look whole.
_MARK: Final = "lorakit.json"
#: Bytes that an environment takes with torch for the CPU, and with any other.
_NEEDS_CPU, _NEEDS_GPU = 3_000_000_000, 11_000_000_000


@dataclass(frozen=True)
class Environment:
    """A whole environment: its interpreter, the interpreter's version, what installed it (uv or pip), and whether just now."""

    python: Path
    version: str
    installer: str
    fresh: bool


def make_environment(
    pin: Pin, folder: Path, runner: Runner, *, python: str = "", torch: str = DEFAULT_TORCH
) -> Environment:
    """Bring the environment in ``folder`` to what the pin asks for; one that is there and whole stays.

    ``python`` is a version, a name on the PATH or a path; ``torch`` is a build such as cpu or cu126, or DEFAULT_TORCH. Raises
    TrainerError, DiskError, UsageError.
    """
    if not re.fullmatch(r"[a-z0-9_.]+", torch):
        raise UsageError(f"--torch {torch!r} is no build of torch", todo="write cpu, cu126, cu128, … or default")
    base = base_python(pin, python)
    wanted = {"python": base.version, "torch": torch, "packages": [*pin.torch, *pin.packages]}
    if (found := _whole(folder, wanted)) is not None:
        return found
    _check_disk(pin, folder, torch)
    uv = shutil.which("uv")
    if uv is not None:
        runner.run(
            [uv, "venv", "--clear", "--python", base.name, str(folder)], doing="making the trainer's environment"
        )
    else:
        runner.run([base.name, "-m", "venv", "--clear", str(folder)], doing="making the trainer's environment")
    inside = venv_python(folder)
    installer = [uv, "pip", "install", "--python", str(inside)] if uv else [str(inside), "-m", "pip", "install"]
    for packages, options in _batches(pin, torch):
        runner.run([*installer, *options, *packages], doing="installing the trainer's packages")
    write_json(folder / _MARK, {**wanted, "installer": "uv" if uv else "pip"})
    return Environment(inside, base.version, "uv" if uv else "pip", fresh=True)


def forget(folder: Path) -> None:
    """Have an environment made again the next time."""
    (folder / _MARK).unlink(missing_ok=True)


def _batches(pin: Pin, torch: str) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Packages that are installed together, and the installer's options: a build of torch has an index of its own."""
    if pin.torch and torch != DEFAULT_TORCH:
        yield pin.torch, ("--index-url", pin.index.format(variant=torch))
    # The same torch again, so that nothing of the rest brings another build of it.
    if packages := (*pin.torch, *pin.packages):
        yield packages, ()


def _whole(folder: Path, wanted: dict[str, Any]) -> Environment | None:
    try:
        mark = json.loads((folder / _MARK).read_bytes())
        if {name: mark[name] for name in wanted} != wanted:
            return None
        installer = str(mark["installer"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if python_version(str(venv_python(folder))) != wanted["python"]:
        return None
    return Environment(venv_python(folder), wanted["python"], installer, fresh=False)


@dataclass(frozen=True)
class Base:
    """An interpreter to make an environment with: its name or path, major and minor version."""

    name: str
    version: str


def base_python(pin: Pin, asked: str) -> Base:
    """The interpreter to make the environment with; where there is uv, it may be one that uv is to bring.

    Raises TrainerError when the one that is asked for does not work, is too old or too new, or there is none.
    """
    preferred = ".".join(map(str, pin.prefer))
    if asked:
        name = f"python{asked}" if re.fullmatch(r"\d+\.\d+", asked) else str(Path(asked).expanduser())
        version = python_version(name)
        if version is None and shutil.which("uv") and re.fullmatch(r"\d+\.\d+(\.\d+)?", asked):
            name, version = asked, asked
        if version is None:
            raise TrainerError(
                f"{asked} is no working Python", todo=f"give another one, such as --python python{preferred}"
            )
        if not pin.at_least <= version_of(version) < pin.below:
            raise TrainerError(
                f"Python {version} is {'too old' if version_of(version) < pin.at_least else 'too new'} for sd-scripts",
                why=f"it needs {_spelled(pin.at_least)} or newer, and older than {_spelled(pin.below)}",
                todo=f"install Python {preferred} and give it with --python",
            )
        return Base(name, version)
    names = [f"python{preferred}", sys.executable]
    names += [f"python3.{minor}" for minor in range(pin.below[1] - 1, pin.at_least[1] - 1, -1)]
    for name in names:
        version = python_version(name)
        if version is not None and pin.at_least <= version_of(version) < pin.below:
            return Base(name, version)
    if shutil.which("uv"):
        return Base(preferred, preferred)
    raise TrainerError(
        "there is no Python on this machine that sd-scripts runs on",
        why=f"it needs {_spelled(pin.at_least)} or newer, and older than {_spelled(pin.below)}",
        todo=f"install Python {preferred}, or uv, which brings it",
    )


def _spelled(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def python_version(python: str) -> str | None:
    """Major and minor version of an interpreter, None when it does not answer."""
    code, told, _ = answer([python, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], seconds=20)
    return told.strip() if code == 0 and re.fullmatch(r"\d+\.\d+\s*", told) else None


def _check_disk(pin: Pin, folder: Path, torch: str) -> None:
    needed = 0 if not pin.torch else _NEEDS_CPU if torch == "cpu" else _NEEDS_GPU
    free = shutil.disk_usage(next(place for place in folder.parents if place.exists())).free
    if free < needed:
        raise DiskError(
            f"the trainer's environment takes about {needed / 1e9:.0f} GB, and {free / 1e9:.1f} GB are free",
            todo="free some space, or use --torch cpu on a machine without a GPU",
        )
