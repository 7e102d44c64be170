"""The checkout of the pin under vendor/: fetched beside its place, and moved there when it is whole."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lorakit.errors import TrainerError
from lorakit.trainers.sd_scripts.programs import Runner, answer

if TYPE_CHECKING:
    from lorakit.trainers.sd_scripts.pin import Pin

__all__ = ["SCRIPT", "Checkout", "look", "make_checkout"]

#: The script that trains an SDXL LoRA.
SCRIPT: Final = "sdxl_train_network.py"
#: The environment's folder inside of the checkout.
VENV: Final = ".venv"

# A repository on this machine may lack blobs that training does not need: only what is checked out is asked of it. A server
# decides for itself; a folder is served by this machine's git, which is told to allow that.
_SERVE_FOLDER: Final = "git -c uploadpack.allowFilter=true -c uploadpack.allowAnySHA1InWant=true upload-pack"


@dataclass(frozen=True)
class Checkout:
    """What a folder is checked out at: the commit ("" where git does not tell) and the tracked files that were changed."""

    folder: Path
    commit: str
    changed: tuple[str, ...]


def look(folder: Path) -> Checkout:
    """Commit and local changes of a folder; no commit when it is no checkout of its own, or there is no git."""
    code, top, _ = answer(["git", "rev-parse", "--show-toplevel"], cwd=folder)
    if code != 0 or Path(os.path.realpath(top.rstrip("\n"))) != Path(os.path.realpath(folder)):
        return Checkout(folder, "", ())
    _, commit, _ = answer(["git", "rev-parse", "HEAD"], cwd=folder)
    _, changes, _ = answer(["git", "status", "--porcelain", "--untracked-files=no"], cwd=folder)
    return Checkout(folder, commit.strip(), tuple(line[3:] for line in changes.splitlines()))


def make_checkout(pin: Pin, folder: Path, runner: Runner, *, source: str = "") -> Checkout:
    """Bring ``folder`` to the pin, from ``source`` (URL or path) or the pin's repository. Local changes are never lost.

    Whatever moment it was interrupted at before, it goes on from there. Raises TrainerError, DiskError.
    """
    if shutil.which("git") is None:
        raise TrainerError(
            "there is no git on this machine",
            why="it fetches sd-scripts and tells which version of it trains",
            todo="install git, and type it again",
        )
    _recover(folder)
    if folder.exists():
        found = look(folder)
        if pin.means(found.commit):
            return found
        _refuse_to_replace(found, pin)
    fetched = _fetch(pin, _beside(folder, "new"), runner, source)
    _swap(fetched, folder)
    return look(folder)


def _refuse_to_replace(found: Checkout, pin: Pin) -> None:
    instead = f"move it away and type it again, or use it as it is: lorakit trainer install --adopt {found.folder}"
    if not found.commit:
        raise TrainerError(f"{found.folder} is there, and is no git checkout", todo=instead)
    if found.changed:
        raise TrainerError(
            f"{found.folder} has local changes in {', '.join(found.changed[:3])} and is not at {pin.tag}",
            why=f"going from {found.commit[:12]} to {pin.commit[:12]} would lose them",
            todo=instead,
        )


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f".{folder.name}-{word}")


def _recover(folder: Path) -> None:
    """Undo or finish what an interrupted installation left beside the folder."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    elif old.exists():
        _finish_swap(old, folder)
    if new.exists():
        shutil.rmtree(new)


def _fetch(pin: Pin, folder: Path, runner: Runner, source: str) -> Path:
    """A sparse checkout of the pin without history, holding no blob that is not in it."""
    where = _source(source or pin.repository)
    folder.mkdir(parents=True)
    settings = {
        "remote.origin.promisor": "true",
        "remote.origin.partialclonefilter": "blob:none",
        "advice.detachedHead": "false",
        "gc.auto": "0",
    }
    if Path(where).is_dir():
        settings["remote.origin.uploadpack"] = _SERVE_FOLDER

    def git(*words: str) -> None:
        runner.run(["git", *words], doing="fetching sd-scripts", cwd=folder)

    git("init", "--quiet")
    git("remote", "add", "origin", where)
    for name, value in settings.items():
        git("config", name, value)
    git("sparse-checkout", "init", "--cone")
    git("sparse-checkout", "set", *pin.folders)
    fetch = ["fetch", "--progress", "--no-tags", "--filter=blob:none", "origin"]
    try:
        git(*fetch, "--depth=1", pin.commit)
    except TrainerError as refused:
        if "no network" in refused.what:
            raise
        # Some servers give no commit by its number: then it is found in the history of the branches and tags.
        git("fetch", "--progress", "--tags", "--filter=blob:none", "origin")
    if answer(["git", "cat-file", "-e", f"{pin.commit}^{{commit}}"], cwd=folder)[0] != 0:
        raise TrainerError(
            f"{where} has no commit {pin.commit[:12]} ({pin.tag})",
            why="the pin names it",
            todo="give another --source, or another commit in vendor/sd-scripts.toml",
        )
    git("checkout", "--quiet", "--detach", pin.commit)
    if not (folder / SCRIPT).is_file():
        raise TrainerError(
            f"commit {pin.commit[:12]} of {where} has no {SCRIPT}", todo="give the repository of sd-scripts as --source"
        )
    return folder


def _source(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; an environment in the old one moves along."""
    old = _beside(folder, "old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    if old.exists():
        _finish_swap(old, folder)


def _finish_swap(old: Path, folder: Path) -> None:
    if (old / VENV).exists() and not (folder / VENV).exists():
        (old / VENV).rename(folder / VENV)
    shutil.rmtree(old)
