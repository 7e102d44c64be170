"""What state the workspace's sd-scripts is in: one check after the other, each with what was found and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from lorakit.errors import LorakitError
from lorakit.trainers.sd_scripts import tokenizers
from lorakit.trainers.sd_scripts.checkout import SCRIPT, look
from lorakit.trainers.sd_scripts.extras import IMPORTED, version_in
from lorakit.trainers.sd_scripts.installed import read_installed
from lorakit.trainers.sd_scripts.pin import read_pin
from lorakit.trainers.sd_scripts.place import Place, find
from lorakit.trainers.sd_scripts.programs import answer
from lorakit.trainers.sd_scripts.receipt import read_receipt

if TYPE_CHECKING:
    from lorakit.workspace import Workspace

__all__ = ["Check", "disk_check", "is_installed", "status"]

_ASK: Final = Path(__file__).with_name("ask_state.py")
_ASK_SECONDS: Final = 300
_INSTALL: Final = "lorakit trainer install"
#: Bytes below which a bake or two will fill the disk.
_LITTLE_DISK: Final = 5_000_000_000
#: Bytes of a GPU below which an SDXL LoRA does not fit, however frugal.
_LITTLE_MEMORY: Final = 7_500_000_000


@dataclass(frozen=True)
class Check:
    """One line: ``state`` is ok, note (nothing wrong, good to know) or problem (sd-scripts will not train)."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    todo: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {"name": self.name, "state": self.state, "found": self.found, "todo": self.todo}


def is_installed(workspace: Workspace) -> bool:
    """Whether there is any sd-scripts to look at: lorakit.toml names one, or vendor/ has one."""
    place = find(workspace)
    return place.named or place.folder.exists()


def status(workspace: Workspace) -> tuple[Check, ...]:
    """Every check of the trainer. Starts its Python, which reads torch; changes nothing. Raises TrainerError for a broken pin."""
    place = find(workspace)
    if not is_installed(workspace):
        half = tuple(_installation(workspace, place))
        return half or (Check("sd-scripts", "problem", "not installed in this workspace", _INSTALL),)
    return (
        *_installation(workspace, place),
        *_checkout(workspace, place),
        *_environment(place),
        *_extras(place),
        *_options(workspace),
        _tokenizers(workspace),
        disk_check(workspace.root),
    )


def _installation(workspace: Workspace, place: Place) -> Iterator[Check]:
    try:
        receipt = read_receipt(workspace)
    except LorakitError as error:
        yield Check("receipt", "problem", f"{error.what}: {error.why}", error.todo)
        return
    if not place.named and receipt is not None and not receipt.complete:
        yield Check("receipt", "problem", "the installation did not come to its end", f"{_INSTALL} goes on with it")


def _checkout(workspace: Workspace, place: Place) -> Iterator[Check]:
    if not (place.folder / SCRIPT).is_file():
        yield Check("checkout", "problem", f"{place.folder} has no {SCRIPT}", _INSTALL)
        return
    pin, found = read_pin(workspace), look(place.folder)
    if not found.commit:
        told = f"{place.folder} is no git checkout: runs will not know its version"
        yield Check("checkout", "note", told, "clone it with git")
    elif pin.means(found.commit):
        yield Check("checkout", "ok", f"{pin.tag} at {found.commit[:12]} in {place.folder}")
    else:
        todo = f"lorakit's plans and rules are true for {pin.tag}: " + (_INSTALL if not place.named else "check it out")
        yield Check("checkout", "note", f"{found.commit[:12]} in {place.folder}", todo)
    if found.changed:
        names = ", ".join(found.changed[:3]) + (f" and {len(found.changed) - 3} more" if len(found.changed) > 3 else "")
        yield Check("local changes", "note", names, "runs record that there are some; git checkout takes them back")
    elif found.commit:
        yield Check("local changes", "ok", "none")
    if place.script != place.folder / SCRIPT:
        exists = place.script.is_file()
        yield Check("script", "note" if exists else "problem", f"{place.script} is run in place of {SCRIPT}")


def _environment(place: Place) -> Iterator[Check]:
    if not place.python.is_file():
        yield Check("python", "problem", f"{place.python} does not exist", _INSTALL)
        return
    code, text, errors = answer([str(place.python), str(_ASK)], cwd=place.folder, seconds=_ASK_SECONDS)
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if code != 0 or not lines:
        last = ([line for line in (text + errors).splitlines() if line.strip()] or [f"exit code {code}"])[-1]
        yield Check("python", "problem", f"{place.python} does not answer: {last.strip()}", _INSTALL)
        return
    yield from _told(json.loads(lines[-1]), place)


def _told(told: Mapping[str, Any], place: Place) -> Iterator[Check]:
    yield Check("python", "ok", f"{told['python']} at {place.python}")
    if told["missing"]:
        names = ", ".join(told["missing"])
        yield Check("packages", "problem", f"missing: {names}", f"install them into {place.python}, or {_INSTALL}")
    for name in ("torch", "accelerate", "cv2"):
        label = "OpenCV" if name == "cv2" else name
        if "error" in told[name]:
            yield Check(label, "problem", f"cannot be imported: {told[name]['error']}", _INSTALL)
        elif name != "torch" and told[name]:
            yield Check(label, "ok", told[name]["version"])
    if "version" in told["torch"]:
        yield from _torch(told["torch"]["version"], told["cuda"])
    yield _bitsandbytes(told["bitsandbytes"])
    xformers = told["xformers"]
    if "version" in xformers:
        yield Check("xformers", "ok", xformers["version"])
    else:
        found = f"cannot be imported: {xformers['error']}" if xformers else "not installed"
        yield Check("xformers", "note", found, 'nothing, but for memory.attention = "xformers": "sdpa" is as good')


def _torch(version: str, cuda: Mapping[str, Any]) -> Iterator[Check]:
    build = f"built for CUDA {cuda['build']}" if cuda["build"] else "built for the CPU"
    if cuda["available"]:
        yield Check("torch", "ok", f"{version}, {build}")
    elif shutil.which("nvidia-smi"):
        todo = (
            "update the driver"
            if cuda["build"]
            else "lorakit trainer install --torch cu126 (or what the driver supports)"
        )
        yield Check("torch", "problem", f"{version}, {build}, does not see this machine's GPU", todo)
    else:
        yield Check("torch", "note", f"{version}, {build}; no GPU here", "training on the CPU is slow, for trials only")
    for card in cuda["cards"]:
        free, total = card["free"], card["total"]
        found = f"{card['name']}: {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
        little = free < _LITTLE_MEMORY
        todo = "end what else runs on it, or use the preset sdxl-8gb" if little else ""
        yield Check("GPU memory", "note" if little else "ok", found, todo)


def _bitsandbytes(told: Mapping[str, Any]) -> Check:
    if not told:
        return Check("bitsandbytes", "note", "not installed", "8-bit optimizers need it; AdamW does without")
    if "error" in told:
        found = f"not usable: {told['error'].splitlines()[0][:200]}"
        return Check("bitsandbytes", "note", found, "optim.type = AdamW does without it; pip install -U bitsandbytes")
    return Check("bitsandbytes", "ok", f"{told['version']}, an 8-bit step works on the {told['device']}")


def _extras(place: Place) -> Iterator[Check]:
    for name, (package, _) in IMPORTED.items():
        version = version_in(place, package)
        if version:
            yield Check(package, "ok", version)
        elif version == "" and place.named:
            yield Check(
                package, "note", "not installed", f"only presets with {name} need it: install it with pip, --no-deps"
            )
        elif version == "":
            yield Check(package, "note", "not installed", f"only presets with {name} need it: {_INSTALL} --with {name}")


def _options(workspace: Workspace) -> Iterator[Check]:
    try:
        installed = read_installed(workspace)
    except LorakitError as error:
        yield Check("options", "problem", f"{error.what}: {error.why}", error.todo)
        return
    if installed is None:
        yield Check("options", "note", "its parser was not asked yet", "lorakit trainer catalogue")
    else:
        yield Check("options", "ok", f"{len(installed.catalogue.flags)}, {installed.version}")


def _tokenizers(workspace: Workspace) -> Check:
    cache = tokenizers.cache_of(workspace)
    if tokenizers.is_complete(cache):
        return Check("tokenizers", "ok", str(cache))
    if tokenizers.in_hub_cache():
        return Check("tokenizers", "ok", "in the hub's cache on this machine")
    try:
        tokenizers.merges_of_package()
    except LorakitError as error:
        return Check("tokenizers", "problem", error.what, error.todo)
    return Check("tokenizers", "ok", "filled at the first bake, from the package instant-clip-tokenizer")


def disk_check(folder: Path) -> Check:
    """How much room there is for runs."""
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
    if usage.free < _LITTLE_DISK:
        return Check(
            "disk", "note", found, "free some space: one LoRA of dim 32 takes 230 MB, an environment 3 to 11 GB"
        )
    return Check("disk", "ok", found)
