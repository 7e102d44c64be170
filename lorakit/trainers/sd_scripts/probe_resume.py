"""What the probe keeps beside a state of sd-scripts, and how a training goes on from it as if it had never ended.

One file, stdlib only, loaded by probe.py inside sd-scripts' environment. sd-scripts restores network, optimizer and scheduler, but counts
steps, names and curves from 0 again, repeats or skips the wrong batches, and draws other noise. Here the counters are put where the
state stands: the batches of the begun epoch that were trained are passed over, losses of the running average and the random numbers
are those of the moment of saving. With one process and no loader workers the resumed training is the same, bit for bit.

``lorakit.json`` in a state's folder is written last, after everything else is on disk, and lists the other files with their sizes.
"""

from __future__ import annotations

import base64
import ctypes
import json
import math
import os
import random
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

RECORD = "lorakit.json"
BARE_RECORD = "train_state.json"
SCHEMA = 1
#: How the probe calls this part of it.
PART = "states' place"
#: Local names of the trainer's ``train`` that must be there to be set.
COUNTERS = ("global_step", "initial_step")


@dataclass
class Position:
    """Where a training stands: ``step`` optimizer steps done, and ``batches`` of this process in ``epoch`` (from 0).

    ``losses`` and ``loss_total`` are the running average's; ``dice`` the random numbers when the epoch began, before the batch that was
    loaded ahead, and now. The counts say whether the position means the same batches in another training.
    """

    step: int
    epoch: int
    batches: int
    batches_per_epoch: int | None = None
    accumulation: int | None = None
    processes: int | None = None
    total_steps: int | None = None
    losses: list[float] = field(default_factory=list)
    loss_total: float = 0.0
    dice: dict[str, Any] = field(default_factory=dict)


class Going:
    """Follows the counters of a training, keeps them in its states, and sets them where it goes on from one."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.position: Position | None = None
        self.step = self.epoch = self.batches = self.added = self.items = 0
        self.length = 0
        self.offset = 0
        self.recorder: Any = None
        self.group: Any = None
        self.restored = False
        self.dice: dict[str, Any] = {}
        self.item_dice: dict[str, Any] = {}

    def hook_in(self, trainer: Any, util: Any) -> None:
        """Wrap what counts: batches, optimizer steps, losses, loaded pictures. Without one of them nothing is kept in states."""
        recorder, group = (getattr(util, name, None) for name in ("LossRecorder", "DatasetGroup"))
        hooks: tuple[tuple[Any, str, tuple[str, ...], Callable[..., Any]], ...] = (
            (trainer, "process_batch", ("self", "is_train"), self.process_batch),
            (trainer, "all_reduce_network", ("self", "accelerator", "network"), self.count_step),
            (recorder, "add", ("self", "epoch", "step", "loss"), self.add_loss),
            (group, "__getitem__", ("self", "idx"), self.load_item),
        )
        if not all(callable(getattr(owner, name, None)) for owner, name, _, _ in hooks):
            self.probe.misfits.add(PART)  # told when it matters: when a state is saved or gone on from
            return
        for owner, name, needs, wrapper in hooks:
            self.probe.wrap(PART, owner, name, needs, wrapper)

    def begin(self, args: Any) -> None:
        """Before the training: read where it goes on from. Raises RuntimeError where that cannot be."""
        if not getattr(args, "resume", None):
            return
        self.position = read(args.resume)
        missing = {PART, "epochs", "accelerator"} & self.probe.misfits
        if self.position is None or missing:
            why = "it does not tell its step" if self.position is None else "this sd-scripts is another one inside"
            raise RuntimeError(f"the training cannot go on from {args.resume}: {why}")

    def hear(self, accelerator: Any) -> None:
        """Add to each state what goes on from it needs."""
        self.probe.wrap("states", accelerator, "save_state", ("output_dir",), self.save_state)

    def enter(self, frame: FrameType, epochs: range) -> range:
        """At the first epoch: the epochs to come, with the trainer's counters set."""
        here, args, accelerator = frame.f_locals, self.probe.args, self.probe.accelerator
        loader = here.get("train_dataloader")
        self.length = len(loader) if loader is not None else 0
        self.group = getattr(loader, "dataset", None)
        if self.position is None:
            return epochs
        position = self.position = placed(self.position, here, args, int(accelerator.num_processes))
        dataset_at(here, position, int(getattr(args, "max_data_loader_n_workers", 0) or 0))
        set_counters(frame, position)
        show_on(here.get("progress_bar"), position)
        # The trainer begins to count an epoch's batches at the one that it loads and passes over.
        self.offset = max(0, position.batches - 1)
        self.step = position.step
        return range(position.epoch, epochs.stop)

    def begin_epoch(self, number: int) -> None:
        """Before the loader of an epoch draws its order."""
        self.epoch, self.batches, self.added = number, 0, 0
        position = self.position
        if position is not None and position.epoch == number:
            self.batches = self.added = position.batches
            put_back(position.dice.get("epoch" if position.batches else "now", {}))
        self.dice = throw(sys.modules["torch"]) if "torch" in sys.modules else {}

    def process_batch(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Count the batches that are trained; the first one after a state sees the noise that it would have seen."""
        if keywords.get("is_train", True):
            position = self.position
            if position is not None and not self.restored:
                self.restored = True
                if position.batches:
                    put_back_torch(position.dice.get("now", {}))
            self.batches += 1
        return original(*arguments, **keywords)

    def count_step(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Gradients are gathered once an optimizer step."""
        self.step += 1
        return original(*arguments, **keywords)

    def add_loss(self, original: Callable[..., Any], recorder: Any, **values: Any) -> None:
        """The running average goes on with the losses of before."""
        if self.recorder is None:
            self.recorder = recorder
            if self.position is not None:
                recorder.loss_list[:] = self.position.losses
                recorder.loss_total = self.position.loss_total
        if recorder is self.recorder:
            self.added += 1
            if self.position is not None and values["epoch"] == self.position.epoch:
                values["step"] += self.offset
        original(recorder, **values)

    def load_item(self, original: Callable[..., Any], group: Any, *arguments: Any) -> Any:
        """Random numbers of captions and crops: the batch after next is loaded ahead, one is loaded and passed over."""
        if group is self.group:
            self.items += 1
            position = self.position
            if position is not None and position.batches and self.items in (2, 3):
                put_back(position.dice.get("item" if self.items == 2 else "now", {}), small=True)
            self.item_dice = small_dice()
        return original(group, *arguments)

    def save_state(self, original: Callable[..., Any], output_dir: str | None = None, **keywords: Any) -> Any:
        """A state, and what is needed to go on from it as if nothing had happened."""
        if output_dir is not None and os.path.isdir(output_dir):
            forget(output_dir)
        result = original(output_dir, **keywords)
        if output_dir is not None:
            if PART in self.probe.misfits:
                self.probe.warn("the probe does without the place in states: going on from one repeats the begun epoch")
            self.probe.guarded(PART, lambda: save(output_dir, self.now()))
        return result

    def now(self) -> Position:
        """Where the training stands between two steps."""
        args, accelerator = self.probe.args, self.probe.accelerator
        losses = list(self.recorder.loss_list) if self.recorder is not None else []
        total = float(self.recorder.loss_total) if self.recorder is not None else 0.0
        if self.added < self.batches:  # the trainer saves a step before it notes the step's loss
            loss = float(self.probe.loss)
            if self.epoch > 0:
                losses += [0.0] * (self.batches - len(losses))
                total += loss - losses[self.batches - 1]
                losses[self.batches - 1] = loss
            else:
                losses.append(loss)
                total += loss
        over = self.batches >= self.length
        dice: dict[str, Any] = {}
        if int(accelerator.num_processes) == 1:  # the ranks' own random numbers are accelerate's to keep
            dice["now"] = throw(sys.modules["torch"])
            if not over:
                dice.update(epoch=self.dice, item=self.item_dice)
        return Position(
            step=self.step,
            epoch=self.epoch + 1 if over else self.epoch,
            batches=0 if over else self.batches,
            batches_per_epoch=self.length,
            accumulation=int(args.gradient_accumulation_steps),
            processes=int(accelerator.num_processes),
            total_steps=int(args.max_train_steps) if int(args.max_train_steps) > 0 else self.planned,
            losses=losses,
            loss_total=total,
            dice=dice,
        )

    @property
    def planned(self) -> int | None:
        """The planned steps, of a training that was asked to stop."""
        return getattr(self.probe, "planned", None)


def save(folder: str, position: Position) -> None:
    """Put the files of a state on disk and add the record that makes it whole. Raises OSError."""
    files = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".") or name == RECORD or not os.path.isfile(path):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        files[name] = {"bytes": os.path.getsize(path)}
    temp = os.path.join(folder, f".{RECORD}.lorakit-tmp-{os.getpid()}-{secrets.token_hex(4)}")
    with open(temp, "w", encoding="utf-8") as file:
        json.dump({"schema": SCHEMA, **asdict(position), "files": files}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temp, os.path.join(folder, RECORD))


def forget(folder: str) -> None:
    """A state that is about to be written over is no whole one any more."""
    path = os.path.join(folder, RECORD)
    if os.path.exists(path):
        os.remove(path)


def read(folder: str) -> Position | None:
    """The position in a state; of a state without our record only the step, with epoch -1. None where nothing tells it."""
    try:
        with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
            record = json.load(file)
        return Position(**{name: record[name] for name in Position.__dataclass_fields__})
    except FileNotFoundError:
        pass
    try:
        with open(os.path.join(folder, BARE_RECORD), encoding="utf-8") as file:
            return Position(step=int(json.load(file)["current_step"]), epoch=-1, batches=0)
    except (OSError, ValueError, KeyError):
        return None


def placed(position: Position, here: dict[str, Any], args: Any, processes: int) -> Position:
    """The position in this training, whose ``train`` has the local names ``here``. Raises RuntimeError where it does not fit."""
    loader = here.get("train_dataloader")
    length = len(loader) if loader is not None else 0
    accumulation = int(args.gradient_accumulation_steps)
    ours = (length, accumulation, processes)
    theirs = (position.batches_per_epoch, position.accumulation, position.processes)
    if position.epoch < 0:
        updates = math.ceil(length / accumulation)
        position.epoch, position.batches = position.step // updates, position.step % updates * accumulation
    elif ours != theirs:
        raise RuntimeError(
            f"the state cannot be gone on from: batches, accumulation, processes were {theirs}, now {ours}"
        )
    if position.total_steps not in (None, int(args.max_train_steps)):
        raise RuntimeError(
            f"the state cannot be gone on from: {position.total_steps} steps were planned, now {args.max_train_steps}"
        )
    return position


def set_counters(frame: FrameType, position: Position) -> None:
    """Put the trainer's own counters where the state stands. Raises RuntimeError where it does not have them.

    ``initial_step`` is how many batches its first epoch passes over.
    """
    code = frame.f_code
    names = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    wanted = dict(zip(COUNTERS, (position.step, position.batches), strict=True))
    here = frame.f_locals
    if any(name not in names or name not in here for name in COUNTERS):
        raise RuntimeError("this sd-scripts counts its steps in another way: it cannot go on where the state stands")
    here.update(wanted)
    if sys.version_info < (3, 13):  # before PEP 667 a frame's locals are a copy that has to be written back
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
    if any(frame.f_locals.get(name) != value for name, value in wanted.items()):
        raise RuntimeError("the step counter of this sd-scripts cannot be set: it cannot go on where the state stands")


def show_on(bar: Any, position: Position) -> None:
    """Have the bar begin where the state stands."""
    if hasattr(bar, "refresh") and hasattr(bar, "initial"):
        bar.n = bar.initial = bar.last_print_n = position.step
        bar.refresh()


def dataset_at(here: dict[str, Any], position: Position, workers: int) -> None:
    """Have the dataset in the order of the batch that comes next.

    It shuffles when the loader has met a new epoch, after the epoch's first batch; loader workers begin with the main process' order.
    """
    group = getattr(here.get("train_dataloader"), "dataset", None)  # the trainer itself has let go of it
    if group is None or not hasattr(group, "set_current_epoch"):
        return
    if workers and position.batches:
        group.set_current_epoch(position.epoch + 1)
    elif not workers and not position.batches:
        group.set_current_epoch(position.epoch)


def throw(torch: Any) -> dict[str, Any]:
    """All random numbers as plain values: torch's on each device, Python's, numpy's."""
    dice = small_dice()
    dice["torch"] = _text(torch.get_rng_state())
    if torch.cuda.is_available():
        dice["cuda"] = [_text(state) for state in torch.cuda.get_rng_state_all()]
    return dice


def small_dice() -> dict[str, Any]:
    """Python's and numpy's random numbers, which loading a picture uses."""
    version, numbers, gauss = random.getstate()
    dice: dict[str, Any] = {"python": [version, list(numbers), gauss]}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, at, has_gauss, cached = numpy.random.get_state()
        dice["numpy"] = [str(name), [int(key) for key in keys], int(at), int(has_gauss), float(cached)]
    return dice


def put_back(dice: dict[str, Any], *, small: bool = False) -> None:
    """Set the random numbers to what :func:`throw` saw; ``small`` leaves torch's alone, otherwise only torch's are set too."""
    if python := dice.get("python"):
        random.setstate((python[0], tuple(python[1]), python[2]))
    numpy = sys.modules.get("numpy")
    if numpy is not None and (state := dice.get("numpy")):
        numpy.random.set_state((state[0], state[1], *state[2:]))
    if not small:
        put_back_torch(dice)


def put_back_torch(dice: dict[str, Any]) -> None:
    """Set torch's random numbers alone."""
    torch = sys.modules["torch"]
    if "torch" in dice:
        torch.set_rng_state(_tensor(torch, dice["torch"]))
    if len(states := dice.get("cuda", [])) == torch.cuda.device_count() and states:
        torch.cuda.set_rng_state_all([_tensor(torch, state) for state in states])


def _text(state: Any) -> str:
    return base64.b64encode(bytes(state.tolist())).decode("ascii")


def _tensor(torch: Any, text: str) -> Any:
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
