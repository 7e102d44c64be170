"""Installs sd-scripts under vendor/, or adopts a checkout of the user's own; interrupted anywhere, the next try goes on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from lorakit import atomic
from lorakit._version import __version__
from lorakit.errors import DiskError, TrainerError, WorkspaceError
from lorakit.trainers.sd_scripts import tokenizers
from lorakit.trainers.sd_scripts.checkout import SCRIPT, VENV, look, make_checkout
from lorakit.trainers.sd_scripts.environment import DEFAULT_TORCH, Environment, base_python, forget, make_environment
from lorakit.trainers.sd_scripts.extras import check_names, install_extras
from lorakit.trainers.sd_scripts.installed import Installed, make_catalogue
from lorakit.trainers.sd_scripts.pin import Pin, read_pin
from lorakit.trainers.sd_scripts.place import TABLE, Place, find, settings_of
from lorakit.trainers.sd_scripts.programs import Runner, answer
from lorakit.trainers.sd_scripts.receipt import Receipt, read_receipt, write_receipt
from lorakit.workspace import MARKER

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["STEPS", "Watcher", "adopt", "install"]

#: What an installation does, in this order: the words that a watcher is told.
STEPS: Final = ("checkout", "tokenizers", "environment", "parser")

#: Seconds to wait for another installation to end.
PATIENCE = 30.0

# Runs in the trainer's own Python; prints one line.
_PACKAGES: Final = (
    "import importlib.metadata as m, json, platform; print(json.dumps([platform.python_version(), "
    "{d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name']}]))"
)


class Watcher(Protocol):
    """Told how an installation goes on: which step, every line of its programs, what there is to say about it."""

    def step(self, name: str, done: str = "") -> None:
        """A step begins, or with ``done`` has ended."""

    def line(self, text: str) -> None:
        """A program printed a line."""

    def warn(self, text: str) -> None:
        """Something to look at that stops nothing."""


@dataclass
class _Clock:
    watcher: Watcher
    seconds: dict[str, float]

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Times a step; what is yielded takes the word that tells what came of it."""
        self.watcher.step(name)
        began, told = time.monotonic(), ["done"]
        yield told.append
        self.seconds[name] = round(time.monotonic() - began, 3)
        self.watcher.step(name, told[-1])


def install(
    workspace: Workspace,
    watcher: Watcher,
    *,
    source: str = "",
    python: str = "",
    torch: str = DEFAULT_TORCH,
    tokenizer_source: Path | None = None,
    extras: Sequence[str] = (),
) -> Receipt:
    """Bring vendor/sd-scripts to the pin: checkout, environment, tokenizers, proof that its parser answers.

    ``source`` is a URL or a path in place of the pin's repository; ``extras`` are packages of the pin's table [with], beside
    those that an earlier installation brought. What is there and right stays, so that a second call does
    little. Raises TrainerError, DiskError, WorkspaceError (lorakit.toml names another checkout), UsageError.
    """
    if settings_of(workspace).get("path"):
        raise WorkspaceError(
            f"{MARKER} says that sd-scripts is in {find(workspace).folder}",
            why="an installation in vendor/ would not be used",
            todo=f"take path and python out of [{TABLE}] in {workspace.root / MARKER}, and type it again",
        )
    pin = read_pin(workspace)
    check_names(pin, extras)
    place = find(workspace)
    base_python(pin, python)  # better now than after the network was asked
    with _alone(workspace, watcher) as lock:
        clock = _Clock(watcher, {})
        wanted = _extras(workspace, pin, extras)
        receipt = Receipt("install", False, time.time(), __version__, str(place.folder), source or pin.repository)
        receipt = replace(receipt, extras=wanted)
        write_receipt(workspace, receipt)
        runner = Runner(workspace.vendor / "sd-scripts.log", watcher.line, held=(lock,))
        with clock.step("checkout") as told:
            checkout = make_checkout(pin, place.folder, runner, source=source)
            told(f"{pin.tag} at {checkout.commit[:12]}")
        _warn_of_changes(watcher, checkout.changed)
        filled = _fill_tokenizers(workspace, clock, tokenizer_source)

        def environment() -> Environment:
            with clock.step("environment") as told:
                made = make_environment(pin, place.folder / VENV, runner, python=python, torch=torch)
                install_extras(pin, wanted, made.python, made.installer, runner)
                told(", ".join([f"Python {made.version}", f"torch {torch}", *wanted]) + f", by {made.installer}")
            return made

        made = environment()
        try:
            installed = _ask(workspace, place, clock)
        except TrainerError as error:
            # What is whole by its mark may have lost a package since: it is made again, once.
            forget(place.folder / VENV)
            if made.fresh:
                raise
            watcher.warn(f"{error.what}: {error.why}; its environment is made again")
            made = environment()
            installed = _ask(workspace, place, clock)
        receipt = replace(
            receipt,
            tag=pin.tag,
            commit=checkout.commit,
            changed=checkout.changed,
            python=str(made.python),
            installer=made.installer,
            torch=torch,
            tokenizers=filled,
        )
        return _finish(workspace, place, receipt, clock, installed)


def adopt(
    workspace: Workspace, watcher: Watcher, *, folder: Path, python: Path, tokenizer_source: Path | None = None
) -> Receipt:
    """Use a checkout and a Python of the user's own: prove that they work, and name them in lorakit.toml.

    Neither is changed. Raises TrainerError when they do not work together, WorkspaceError when lorakit.toml cannot be
    written; then nothing has changed.
    """
    folder, python = folder.expanduser().absolute(), python.expanduser().absolute()
    if not (folder / SCRIPT).is_file():
        raise TrainerError(f"{folder} has no {SCRIPT}", todo="give the folder of a checkout of sd-scripts with --adopt")
    if not python.is_file():
        raise TrainerError(f"there is no {python}", todo="give the interpreter of its environment with --python")
    place = Place(folder, python, folder / SCRIPT, named=True)
    with _alone(workspace, watcher):
        clock = _Clock(watcher, {})
        with clock.step("checkout") as told:
            checkout = look(folder)
            told(f"at {checkout.commit[:12]}" if checkout.commit else "no git checkout: its version is not known")
        _warn_of_changes(watcher, checkout.changed)
        pin = read_pin(workspace)
        if checkout.commit and not pin.means(checkout.commit):
            watcher.warn(f"it is not at {pin.tag}: lorakit's plans and rules are true for that version")
        receipt = Receipt("adopt", True, time.time(), __version__, str(folder), str(folder))
        receipt = replace(
            receipt,
            tag=pin.tag if pin.means(checkout.commit) else "",
            commit=checkout.commit,
            changed=checkout.changed,
            python=str(python),
        )
        filled = _fill_tokenizers(workspace, clock, tokenizer_source)
        installed = _ask(workspace, place, clock)
        _name_in_settings(workspace, place)
        return _finish(workspace, place, replace(receipt, tokenizers=filled), clock, installed)


def _extras(workspace: Workspace, pin: Pin, asked: Sequence[str]) -> tuple[str, ...]:
    """The packages on request that are asked for now, or were before and are still known to the pin."""
    try:
        before = read_receipt(workspace)
    except TrainerError:  # a torn one says nothing, and is written anew
        before = None
    kept = before.extras if before is not None and before.how == "install" else ()
    return tuple(name for name in dict.fromkeys([*kept, *asked]) if name in pin.extras)


def _ask(workspace: Workspace, place: Place, clock: _Clock) -> Installed:
    with clock.step("parser") as told:
        installed = make_catalogue(workspace, place)
        told(f"{len(installed.catalogue.flags)} options, {installed.version}")
    return installed


def _finish(workspace: Workspace, place: Place, receipt: Receipt, clock: _Clock, installed: Installed) -> Receipt:
    """Write the receipt that makes the installation one."""
    version, packages = _packages(place.python)
    done = replace(
        receipt,
        complete=True,
        time=time.time(),
        python_version=version,
        packages=packages,
        options=len(installed.catalogue.flags),
        seconds=clock.seconds,
    )
    write_receipt(workspace, done)
    return done


def _fill_tokenizers(workspace: Workspace, clock: _Clock, source: Path | None) -> str:
    """Fill the tokenizer cache; a machine without a vocabulary still gets its trainer, and is told."""
    with clock.step("tokenizers") as told:
        try:
            cache, origin = tokenizers.provide(workspace, source)
        except TrainerError as error:
            if source is not None:
                raise
            told("not filled")
            clock.watcher.warn(f"{error.what}: {error.todo}")
            return ""
        told(f"from {origin}" if origin else "there already")
        before = read_receipt(workspace)
        del cache
        return origin or (before.tokenizers if before else "")


def _warn_of_changes(watcher: Watcher, changed: tuple[str, ...]) -> None:
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        watcher.warn(
            f"the checkout has local changes, which are recorded with every run: {', '.join(changed[:3])}{more}"
        )


def _packages(python: Path) -> tuple[str, dict[str, str]]:
    import json

    _, told, _ = answer([str(python), "-I", "-c", _PACKAGES])
    try:
        version, packages = json.loads(told)
    except ValueError:
        raise TrainerError(f"{python} does not answer", todo="lorakit trainer install") from None
    return version, dict(sorted(packages.items(), key=lambda item: str(item[0]).lower()))


def _name_in_settings(workspace: Workspace, place: Place) -> None:
    """Write path and python into lorakit.toml, keeping everything else in it as it is."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = workspace.root / MARKER
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        table: Any = document.get(TABLE)
        if table is None:
            table = document[TABLE] = tomlkit.table()
            table = document[TABLE]
        table["path"], table["python"] = str(place.folder), str(place.python)
        atomic.write_text(path, tomlkit.dumps(document))
    except (OSError, TOMLKitError) as error:
        raise WorkspaceError(f"{path} cannot be written", why=str(error), todo="mend it, and type it again") from error


@contextlib.contextmanager
def _alone(workspace: Workspace, watcher: Watcher) -> Iterator[int]:
    """Two installations at once would tear each other down. Yields the lock's descriptor.

    The lock goes with this process and the programs it started, however they end: what a killed installation left running
    is waited for, which is not long, since nobody reads what it prints.
    """
    import fcntl

    try:
        workspace.vendor.mkdir(parents=True, exist_ok=True)
        handle = os.open(workspace.vendor / ".sd-scripts.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DiskError(f"{workspace.vendor} cannot be written", why=error.strerror or str(error)) from error
    try:
        until, told = time.monotonic() + PATIENCE, False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise TrainerError(
                        "sd-scripts is being installed by another lorakit", todo="wait for it to end, and type it again"
                    ) from None
            if not told:
                watcher.warn("another installation is at work here; waiting for it to end")
                told = True
            time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)
