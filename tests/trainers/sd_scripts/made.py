"""A small trainer with the outside of sd-scripts, in real git repositories, and a workspace that pins it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.workspace import Workspace

FLAGS = Path(__file__).parents[3] / "lorakit" / "trainers" / "sd_scripts" / "flags.json"
ROWS: list[dict[str, Any]] = json.loads(FLAGS.read_text(encoding="utf-8"))

SCRIPT = """
import argparse, json, pathlib
import library, networks

def int_or_float(text):
    return float(text)

def setup_parser():
    parser = argparse.ArgumentParser()
    types = {"int": int, "float": float, "str": str, "Path": pathlib.Path, "int_or_float": int_or_float}
    for row in json.loads(pathlib.Path(library.__file__).with_name("options.json").read_text()):
        if row["type"] == "bool":
            parser.add_argument(row["flag"], dest=row["dest"], action="store_true")
        else:
            keys = {name: row[name] for name in ("dest", "default", "choices", "nargs")}
            parser.add_argument(row["flag"], type=types[row["type"]], **keys)
    return parser
"""


def git(folder: Path, *words: str) -> str:
    """Run git as somebody, whatever the machine's own settings are."""
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(
        ["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, message: str = "work") -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def make_source(folder: Path, rows: list[dict[str, Any]] | None = None) -> str:
    """A repository with one commit, and with a large file that training does not need; returns the commit."""
    for name in ("library", "networks", "images", "docs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("", encoding="utf-8")
    (folder / "images" / "large.bin").write_bytes(os.urandom(200_000))
    (folder / "sdxl_train_network.py").write_text(SCRIPT, encoding="utf-8")
    write_options(folder, ROWS if rows is None else rows)
    git(folder, "init", "-q", "-b", "main")
    return commit(folder)


def write_options(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "library" / "options.json").write_text(json.dumps(rows), encoding="utf-8")


def lose_blob(folder: Path, path: str) -> None:
    """Take a file's content out of a repository, as a damaged or trimmed mirror lacks it."""
    blob = git(folder, "rev-parse", f"HEAD:{path}")
    loose = folder / ".git" / "objects" / blob[:2] / blob[2:]
    loose.chmod(0o600)
    loose.unlink()
    (folder / path).unlink()


def make_python(path: Path, version: str = "") -> Path:
    """An interpreter whose virtual environments are made at once: without pip, which nothing here needs."""
    told = f'[ "$1" = "-I" ] && {{ echo {version}; exit 0; }}' if version else ":"
    path.write_text(
        f'#!/bin/sh\n{told}\n[ "$2" = venv ] && {{ shift 2; exec "{sys.executable}" -m venv --without-pip "$@"; }}\n'
        f'exec "{sys.executable}" "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def make_workspace(folder: Path, source: Path | str, commit: str, *, packages: tuple[str, ...] = ()) -> Workspace:
    """A workspace whose pin is a commit of a source; its environment gets ``packages`` and no torch."""
    vendor = folder / "vendor"
    vendor.mkdir(parents=True, exist_ok=True)
    (folder / "lorakit.toml").write_text("# mine\n", encoding="utf-8")
    (vendor / "sd-scripts.toml").write_text(
        f"""
repository = {json.dumps(str(source))}
tag = "v0.10.1"
commit = "{commit}"
folders = ["library", "networks"]
[python]
prefer = "{sys.version_info[0]}.{sys.version_info[1]}"
at_least = "3.10"
below = "3.20"
[torch]
packages = []
index = "http://127.0.0.1:9/{{variant}}"
[environment]
packages = {json.dumps(list(packages))}
""",
        encoding="utf-8",
    )
    return Workspace(folder)


@dataclass
class Watched:
    """Keeps what a watcher is told."""

    steps: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def step(self, name: str, done: str = "") -> None:
        if done:
            self.steps.append(f"{name}: {done}")

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
