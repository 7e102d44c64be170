"""Runs sd-scripts with the run protocol, gradient norms, two text encoder rates and a graceful stop hooked in from outside.

``probe.py /path/to/sdxl_train_network.py arguments…`` in sd-scripts' own Python: one file, stdlib only (torch and accelerate are
whatever the script itself has imported). No file of sd-scripts is changed: functions are wrapped once ``train_network`` has been
imported, each one only where it still has the parameters that the wrapper counts on. What no longer fits is told in a ``warn``
record and left out; without the parts in ``Probe.speak`` no other record is written at all, and lorakit reads the log instead.

From the environment: LORAKIT_PROGRESS, the protocol's file; LORAKIT_STOP_FILE; RANK. Without the first two they are simply off.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import json
import math
import operator
import os
import re
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

PARTS = {"unet": ("lora_unet_",), "te1": ("lora_te1_", "lora_te_"), "te2": ("lora_te2_",)}
VALIDATION = ("loss/validation/step_average", "loss/validation/epoch_average")
NEVER = 1 << 60
GRADIENT = operator.attrgetter("grad")
#: Elements up to which gradients are copied together for their norm: 16 MB.
SMALL = 1 << 22


def main() -> None:
    """Hook in, then be the script that is named on the command line."""
    if len(sys.argv) < 2:
        sys.exit("usage: probe.py script.py [argument…]")
    script = sys.argv[1]
    probe = Probe(Records(os.environ.get("LORAKIT_PROGRESS") if os.environ.get("RANK", "0") == "0" else None))
    sys.meta_path.insert(0, AfterImport("train_network", probe.hook_in))
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException as error:
        probe.failed(error)
        raise
    if probe.reason == "nan":
        sys.exit(1)


class Records:
    """Appends protocol records to a file, one write a line; without a path it swallows them."""

    def __init__(self, path: str | None) -> None:
        self._file = open(path, "ab", buffering=0) if path else None  # noqa: SIM115 (held for the run)

    def write(self, type: str, **values: Any) -> None:
        """Append one record. Non-finite floats become strings, for JSON has no word for them."""
        if self._file is not None:
            record = finite({"v": 1, "t": round(time.time(), 3), "type": type, **values})
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
            self._file.write(line.encode("utf-8", "surrogateescape") + b"\n")


def finite(value: Any) -> Any:
    """The same without NaN and infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


class AfterImport(MetaPathFinder):
    """Calls ``then(module)`` once the module called ``name`` has been imported, whoever imports it."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self.name = name
        self.then = then

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's own spec, with a loader that calls ``then`` at its end."""
        del path, target
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_tell(module: ModuleType) -> None:
            run(module)
            self.then(module)

        spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec


class Probe:
    """What is known of the training, and the wrappers that learn it."""

    #: Without these nobody could tell steps and stop: then the protocol is left to lorakit's reader of the log.
    speak = frozenset({"train", "steps", "epochs", "accelerator"})

    def __init__(self, records: Records) -> None:
        self.records = records
        self.misfits: set[str] = set()
        self.reason = "ok"
        self.message = ""
        self.step = 0
        self.epoch = 0
        self.began = False
        self.args: Any = None
        self.accelerator: Any = None
        self.network: Any = None
        self.optimizer: Any = None
        self.names: list[str] | None = None
        self.parts: dict[str, list[Any]] = {}
        self.sizes: dict[str, int] = {}
        self.groups: list[tuple[str, ...]] = []
        self.rates: list[float] = []
        self.norms: dict[str, float] = {}
        self.bad_gradient = False
        self.losses: list[float] = []
        self.loss: Any = None
        self.measured = False
        self.told = False
        self.recorder: Any = None
        self.going = beside("probe_resume").Going(self)
        self.spikes = beside("probe_spikes").Spikes.from_env()
        self.planned = 0
        self.clock = time.monotonic()
        self.validating: float | None = None

    # Hooking in

    def hook_in(self, module: ModuleType) -> None:
        """Wrap what the training goes through, in ``train_network`` and ``library.train_util``."""
        trainer = getattr(module, "NetworkTrainer", None)
        util = getattr(module, "train_util", None)
        self.code = getattr(getattr(trainer, "train", None), "__code__", None)
        self.going.hook_in(trainer, util)
        self.wrap("train", trainer, "train", ("self", "args"), self.train)
        self.wrap("accelerator", util, "prepare_accelerator", ("args",), self.prepare_accelerator)
        self.wrap("steps", getattr(util, "LossRecorder", None), "add", ("self", "epoch", "step", "loss"), self.add_loss)
        if isinstance(self.code, CodeType) and "range" in self.code.co_names:
            module.__dict__["range"] = self.epochs
        else:
            self.misfit("epochs", "its epochs are not counted by range()")
        self.wrap("samples", util, "sample_image_inference", ("save_dir", "prompt_dict", "steps"), self.sample)
        for part, name in (("cache_latents", "new_cache_latents"), ("cache_text", "new_cache_text_encoder_outputs")):
            self.wrap(part, getattr(util, "DatasetGroup", None), name, ("self",), self.phase(part))
        parameters = ("self", "accelerator", "network")
        self.wrap("optimizer", util, "get_optimizer", ("args", "trainable_params"), self.get_optimizer)
        self.wrap("network", trainer, "post_process_network", parameters, self.take_network)
        self.wrap("gradients", trainer, "all_reduce_network", parameters, self.reduce_gradients)
        self.wrap("batches", trainer, "process_batch", ("self", "is_train"), self.process_batch)
        self.wrap("curves", trainer, "generate_step_logs", ("self", "lr_scheduler"), self.step_logs)
        for name in ("step_logging", "epoch_logging"):
            self.wrap("validation", trainer, name, ("self", "accelerator", "logs", "global_step", "epoch"), self.log)
        if self.speak & self.misfits:
            self.warn("the probe leaves the run protocol and the graceful stop to lorakit's reader of the log")
        self.tell("phase", name="load")

    def wrap(self, part: str, owner: Any, name: str, needs: Sequence[str], wrapper: Callable[..., Any]) -> None:
        """Replace ``owner.name`` by ``wrapper(original, *arguments)`` when it has the parameters in ``needs``."""
        original = getattr(owner, name, None)
        try:
            has = inspect.signature(original).parameters if callable(original) else {}
        except (TypeError, ValueError):
            has = {}
        if not callable(original) or any(need not in has for need in needs):
            self.misfit(part, f"{name} is not there" if not has else f"{name} takes other arguments")
            return

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            return wrapper(original, *arguments, **keywords)

        setattr(owner, name, functools.update_wrapper(wrapped, original))

    def misfit(self, part: str, why: str) -> None:
        """Leave a part out, and say so once."""
        if part not in self.misfits:
            self.misfits.add(part)
            self.warn(f"the probe does without {part.replace('_', ' ')}: this sd-scripts is another one inside ({why})")

    def guarded(self, part: str, work: Callable[[], None]) -> None:
        """Do what is the probe's alone; a fault in it costs that part, never the training."""
        if part not in self.misfits:
            try:
                work()
            except Exception as error:  # noqa: BLE001 (whatever it is, it is told, and the training goes on)
                self.misfit(part, f"{type(error).__name__}: {error}")

    def warn(self, message: str) -> None:
        """Say something that deserves a look, in the log and in the protocol."""
        print(f"lorakit: {message}", file=sys.stderr, flush=True)
        self.records.write("warn", message=message)

    def tell(self, type: str, **values: Any) -> None:
        """A protocol record, if the protocol is the probe's to tell."""
        if not self.speak & self.misfits:
            self.records.write(type, **values)

    # The training as a whole

    def train(self, original: Callable[..., Any], trainer: Any, args: Any) -> Any:
        """From the arguments to the last file."""
        self.args = args
        if separate_rates(args) and "network" in self.misfits:
            raise RuntimeError("the text encoders' rates differ, and the probe cannot give them to this sd-scripts")
        self.going.begin(args)
        result = original(trainer, args)
        if self.began:
            self.tell("end", reason=self.reason, steps=self.step, message=self.message)
        return result

    def failed(self, error: BaseException) -> None:
        """Tell of an end that is not the trainer's own."""
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return
        said = str(error).strip()
        message = f"{type(error).__name__}: {said.splitlines()[0]}" if said else type(error).__name__
        self.tell("end", reason="error", steps=self.step, message=message)

    def prepare_accelerator(self, original: Callable[..., Any], args: Any) -> Any:
        """Keep the accelerator, and hear of saved states."""
        self.accelerator = original(args)
        self.going.hear(self.accelerator)
        self.wrap("states", self.accelerator, "save_state", ("output_dir",), self.save_state)
        return self.accelerator

    def phase(self, name: str) -> Callable[..., Any]:
        """A wrapper that tells that a phase begins."""

        def begin(original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            self.tell("phase", name=name)
            if not getattr(self.args, "cache_latents_to_disk", False):
                return original(*arguments, **keywords)
            with same_dice():
                return original(*arguments, **keywords)

        return begin

    def epochs(self, *bounds: int) -> Any:
        """``range`` as train_network sees it: the one over epochs, in ``train``, ends early when a stop is asked for."""
        numbers = range(*bounds)
        frame = sys._getframe(1)
        if len(bounds) != 2 or frame.f_code is not self.code:
            return numbers
        numbers = self.going.enter(frame, numbers)
        here = frame.f_locals
        self.guarded("start", lambda: self.start(numbers, here))
        return self.until_stopped(numbers)

    def until_stopped(self, numbers: range) -> Iterator[int]:
        """The epochs, as long as there is no reason to end."""
        for number in numbers:
            self.clock = time.monotonic()
            self.epoch = number + 1
            self.guarded("place", functools.partial(self.going.begin_epoch, number))
            yield number
            if self.reason != "ok":
                return

    def start(self, epochs: range, here: dict[str, Any]) -> None:
        """Tell what is about to happen. ``here`` are the local names of the training at its first epoch."""
        self.began = True
        self.step = int(here.get("global_step", 0))
        loader = here.get("train_dataloader")
        optimizer = self.optimizer
        self.tell(
            "start",
            total_steps=int(self.args.max_train_steps),
            epochs=epochs.stop,
            batches_per_epoch=None if loader is None else len(loader),
            first_step=self.step,
            trainer="sd-scripts",
            modules={part: len(modules) for part, modules in self.modules().items() if modules},
            groups=[]
            if optimizer is None
            else [
                {"name": name, "lr": float(group["lr"]), "tensors": len(group["params"])}
                for name, group in zip(self.group_names(), optimizer.param_groups, strict=False)
            ],
        )

    # Network and optimizer

    def take_network(self, original: Callable[..., Any], trainer: Any, *arguments: Any, **keywords: Any) -> Any:
        """Keep the network, hear of saved files, and give the text encoders their own rates where they differ."""
        bound = inspect.signature(original).bind(trainer, *arguments, **keywords).arguments
        result = original(trainer, *arguments, **keywords)
        self.network = bound["network"]
        self.wrap("saves", self.network, "save_weights", ("file", "metadata"), self.save)
        if separate_rates(self.args) and not hasattr(self.network, "prepare_optimizer_params_with_multiple_te_lrs"):
            self.network.prepare_optimizer_params_with_multiple_te_lrs = self.two_rates
        self.wrap("groups", self.network, "prepare_optimizer_params", ("unet_lr",), self.name_groups)
        return result

    def name_groups(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Keep what the network calls its parameter groups."""
        result = original(*arguments, **keywords)
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], (list, tuple)):
            self.names = [str(name) for name in result[1]]
        return result

    def two_rates(self, text_encoder_lr: Sequence[float], unet_lr: Any, default_lr: Any) -> tuple[list[Any], list[str]]:
        """The parameter groups of TE1, TE2 and UNet, each made by the network itself with the rate that is its own.

        sd-scripts asks a network that has this method, rather than ``prepare_optimizer_params``, with both rates.
        """
        network, kept = self.network, (self.network.text_encoder_loras, self.network.unet_loras)
        encoders = {
            part: [lora for lora in kept[0] if lora.lora_name.startswith(PARTS[part])] for part in ("te1", "te2")
        }
        if sum(map(len, encoders.values())) != len(kept[0]) or 0 in text_encoder_lr or len(text_encoder_lr) != 2:
            raise RuntimeError(f"the rates {text_encoder_lr} cannot be given to these text encoders")
        groups: list[Any] = []
        names: list[str] = []
        turns: tuple[tuple[str, float, list[Any], list[Any]], ...] = (
            ("te1", text_encoder_lr[0], encoders["te1"], []),
            ("te2", text_encoder_lr[1], encoders["te2"], []),
            ("unet", text_encoder_lr[0], [], kept[1]),
        )
        try:
            for part, rate, network.text_encoder_loras, network.unet_loras in turns:
                made = network.prepare_optimizer_params(rate, unet_lr, default_lr)
                found, told = made if isinstance(made, tuple) else (made, [part] * len(made))
                groups += found
                names += [name.replace("textencoder", part) for name in told]
        finally:
            network.text_encoder_loras, network.unet_loras = kept
        self.names = names
        return groups, names

    def get_optimizer(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Keep the optimizer."""
        result = original(*arguments, **keywords)
        self.optimizer = result[-1]
        self.guarded("optimizer", self.sort_parameters)
        return result

    def sort_parameters(self) -> None:
        """Which part each parameter and each group of the optimizer belongs to."""
        part_of = {}
        for name, parameter in self.network.named_parameters():
            for part, prefixes in PARTS.items():
                if name.startswith(prefixes):
                    part_of[id(parameter)] = part
                    self.parts.setdefault(part, []).append(parameter)
        self.sizes = {part: sum(p.numel() for p in parameters) for part, parameters in self.parts.items()}
        for group in self.optimizer.param_groups:
            found = {part_of.get(id(parameter)) for parameter in group["params"]}
            self.groups.append(tuple(part for part in PARTS if part in found))

    def modules(self) -> dict[str, set[str]]:
        """The names of the LoRA modules of each part."""
        named = {name.partition(".")[0] for name, _ in self.network.named_parameters()}
        return {part: {name for name in named if name.startswith(prefixes)} for part, prefixes in PARTS.items()}

    def group_names(self) -> list[str]:
        """What each parameter group is called: by its parts, with what the network says of it (``plus``, a block)."""
        told = self.names if self.names is not None and len(self.names) == len(self.groups) else [""] * len(self.groups)
        return [
            name or "+".join(parts) or f"group{i}"
            for i, (name, parts) in enumerate(zip(told, self.groups, strict=True))
        ]

    # Steps

    def reduce_gradients(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Before clipping: the rates of this step, the gradient norm of each part; a gradient that is not finite is not applied."""
        result = original(*arguments, **keywords)
        self.guarded("gradients", self.measure)
        return result

    def measure(self) -> None:
        """Norms with one transfer from the device. With fp16's scaler infinities are its daily bread, and it skips the step."""
        torch = sys.modules["torch"]
        self.measured = True
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        scaler = getattr(self.accelerator, "scaler", None)
        found = {
            part: [g for g in map(GRADIENT, parameters) if g is not None] for part, parameters in self.parts.items()
        }
        found = {part: gradients for part, gradients in found.items() if gradients}
        norms = [norm_of(torch, gradients, small=self.sizes[part] < SMALL) for part, gradients in found.items()]
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        values = torch.stack(norms).tolist() if norms else []
        self.norms = {part: value / scale for part, value in zip(found, values, strict=True)}
        self.bad_gradient = scaler is None and not all(map(math.isfinite, values))
        if self.bad_gradient:
            for parameters in self.parts.values():
                for parameter in parameters:
                    parameter.grad = None

    def process_batch(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Keep the loss of a batch; tell batches of validation from those of training, for the clock."""
        if not keywords.get("is_train", True):
            self.validating = self.validating or time.monotonic()
            return original(*arguments, **keywords)
        if self.validating is not None:
            self.clock += time.monotonic() - self.validating
            self.validating = None
        loss = original(*arguments, **keywords)
        self.loss = loss.detach()
        return loss

    def add_loss(self, original: Callable[..., Any], recorder: Any, **values: Any) -> None:
        """The trainer notes the loss of a batch, as the last thing of a step. Validation has recorders of its own."""
        original(recorder, **values)
        if self.recorder is None:
            self.recorder = recorder
        if recorder is self.recorder:
            self.guarded("steps", lambda: self.end_batch(float(values["loss"])))

    def end_batch(self, loss: float) -> None:
        """After each batch; after the last of a step, tell the step and look whether to go on."""
        self.losses.append(loss)
        if not self.accelerator.sync_gradients:
            return
        loss, stop, bad = self.agreed(sum(self.losses) / len(self.losses), self.bad_gradient)
        if not self.told:
            self.tell_step(loss)
        self.losses, self.measured, self.told = [], False, False
        if bad or not math.isfinite(loss):
            what = "the loss" if not math.isfinite(loss) else "a gradient"
            kept = "the LoRA that was saved is that of the step before" if bad else "what was saved may be spoilt"
            self.stop("nan", f"{what} became NaN or infinite at step {self.step}; {kept}")
            return
        spike = self.spikes.add(self.step, loss, self.norms)
        if self.step < self.args.max_train_steps and (stop or spike):
            self.stop("spike" if spike else "stopped", spike or f"stopped after step {self.step}")

    def tell_early(self) -> None:
        """Before the files and pictures of a step: that step. Several processes agree on its loss only later."""
        if self.measured and not self.told and int(self.accelerator.num_processes) == 1:
            self.told = True
            losses = [*self.losses, float(self.loss)]
            self.tell_step(sum(losses) / len(losses))

    def tell_step(self, loss: float) -> None:
        """A ``step`` record."""
        self.step += 1
        rates: dict[str, float] = {}
        self.guarded("rates", lambda: rates.update(self.rates_by_part()))
        now = time.monotonic()
        self.tell(
            "step",
            step=self.step,
            epoch=self.epoch,
            loss=loss,
            lr=rates,
            grad_norm=self.norms,
            seconds=round(now - self.clock, 4),
            rss=resident(),
            vram=device_memory(),
        )
        self.clock = now

    def agreed(self, loss: float, bad: bool) -> tuple[float, bool, bool]:
        """The mean loss of all processes, and whether any of them wants to stop or has a bad gradient."""
        name = os.environ.get("LORAKIT_STOP_FILE")
        stop = bool(name) and os.path.exists(name or "")
        count = int(self.accelerator.num_processes)
        if count == 1:
            return loss, stop, bad
        torch = sys.modules["torch"]
        values = torch.tensor([loss, float(stop), float(bad)], device=self.accelerator.device)
        torch.distributed.all_reduce(values)
        total, stops, bads = values.tolist()
        return total / count, stops > 0, bads > 0

    def stop(self, reason: str, message: str) -> None:
        """Have the trainer end after this step: its own ending, without what belongs to a whole epoch."""
        self.reason, self.message, self.planned = reason, message, int(self.args.max_train_steps)
        print(f"\nlorakit: {message}", flush=True)
        self.args.max_train_steps = -NEVER
        self.args.save_every_n_epochs = self.args.sample_every_n_epochs = self.args.validate_every_n_steps = None
        self.args.validate_every_n_epochs = NEVER

    def rates_by_part(self) -> dict[str, float]:
        """The rate that each part had in this step, times ``d`` where the optimizer adapts one. LoRA+'s and later blocks are left out."""
        rates: dict[str, float] = {}
        if self.optimizer is None:
            return rates
        named = zip(self.group_names(), self.groups, self.rates, self.optimizer.param_groups, strict=False)
        for name, parts, rate, group in named:
            for part in parts if not name.endswith("plus") else ():
                rates.setdefault(part, rate * float(group.get("d", 1.0)))
        return rates

    # Curves, files, pictures

    def step_logs(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """TensorBoard's values of a step, with the gradient norms and each rate under its own name."""
        logs = original(*arguments, **keywords)
        self.guarded("curves", lambda: self.name_curves(logs))
        return logs

    def name_curves(self, logs: dict[str, Any]) -> None:
        """Add grad_norm/…, lr/te1, lr/te2, lr/unet; the trainer's own tags would hold the next step's rates.

        ``lr/textencoder``, the first group's, goes where that is not a text encoder's. Before this process' first step no rate was used:
        with accumulation the trainer then gives the last step of the attempt before another one.
        """
        if not self.rates:
            for tag in [tag for tag in logs if tag.startswith("lr/")]:
                del logs[tag]
        if self.groups and not {"te1", "te2"} & set(self.groups[0]):
            logs.pop("lr/textencoder", None)
        for i, (name, parts, rate) in enumerate(zip(self.group_names(), self.groups, self.rates, strict=False)):
            own = {f"lr/{name}", f"lr/group{i}", *(["lr/textencoder"] if i == 0 else [])}
            logs.update({tag: rate for tag in own if tag in logs})
            for part in parts:
                logs["lr/" + re.sub(r"^(textencoder|te[12]|unet)(\+\w+)?", part, name)] = rate
        if self.accelerator.sync_gradients:
            logs.update({f"grad_norm/{part}": norm for part, norm in self.norms.items()})

    def log(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Values for the trackers: among them those of a validation."""
        logs = inspect.signature(original).bind(*arguments, **keywords).arguments["logs"]
        found = next((logs[key] for key in VALIDATION if key in logs), None)
        if found is not None:
            self.tell("validation", step=self.step, epoch=self.epoch, loss=float(found))
        return original(*arguments, **keywords)

    def save(self, original: Callable[..., Any], file: str, dtype: Any, metadata: Any) -> Any:
        """A LoRA file, with its own epoch: the trainer gives one of a step the epoch before, the last of a stopped run the planned last."""
        kind = (
            "step" if re.search(r"-step\d+\.\w+$", file) else "epoch" if re.search(r"-\d{6}\.\w+$", file) else "final"
        )
        if (kind == "step" or self.reason != "ok") and isinstance(metadata, dict) and "ss_epoch" in metadata:
            metadata["ss_epoch"] = str(self.epoch)
        return self.timed(lambda: original(file, dtype, metadata), lambda: self.tell_file(file, kind))

    def save_state(self, original: Callable[..., Any], output_dir: str | None = None, **keywords: Any) -> Any:
        """A folder from which the training can go on."""
        return self.timed(
            lambda: original(output_dir, **keywords), lambda: self.tell_file(output_dir or "", "state"), part="states"
        )

    def tell_file(self, path: str, kind: str) -> None:
        """A ``save`` record."""
        inside = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
        numbered = re.search(r"-step(\d+)", os.path.basename(path))
        step = int(numbered.group(1)) if numbered else self.step
        size = sum(os.path.getsize(name) for name in inside)
        self.tell("save", step=step, epoch=max(1, self.epoch), path=os.path.abspath(path), bytes=size, kind=kind)

    def sample(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """One picture: the file that is there after it and was not before."""
        bound = inspect.signature(original).bind(*arguments, **keywords).arguments
        folder, prompt = bound["save_dir"], bound["prompt_dict"]
        before = set(os.listdir(folder)) if os.path.isdir(folder) else set()

        def tell() -> None:
            for name in sorted(set(os.listdir(folder)) - before):
                path = os.path.abspath(os.path.join(folder, name))
                text = str(prompt.get("prompt", ""))
                self.tell("sample", step=int(bound["steps"]), epoch=self.epoch, path=path, prompt=text)

        return self.timed(lambda: original(*arguments, **keywords), tell, part="samples")

    def timed(self, work: Callable[[], Any], then: Callable[[], None], part: str = "saves") -> Any:
        """Do work that is not training: its seconds do not count for the step."""
        self.guarded("steps", self.tell_early)
        began = time.monotonic()
        result = work()
        self.clock += time.monotonic() - began
        self.guarded(part, then)
        return result


def norm_of(torch: Any, gradients: list[Any], *, small: bool) -> Any:
    """The l2 norm over all tensors, as a tensor of one value.

    On the CPU thousands of small ones cost less copied together; a GPU takes them all at once, and large ones are not worth a copy.
    """
    if small and gradients[0].device.type == "cpu":
        return torch._utils._flatten_dense_tensors(gradients).float().norm()
    return torch.stack(torch._foreach_norm(gradients)).float().norm()


@contextlib.contextmanager
def same_dice() -> Iterator[None]:
    """Random numbers drawn inside do not change those drawn after it, and are the same in every run.

    Encoding a picture draws some. Latents that are found on disk draw none, and without this a run that finds them would
    start from other weights and see other noise than the run that made them.
    """
    torch: Any = sys.modules["torch"]
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    before = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def beside(name: str) -> ModuleType:
    """Another file of lorakit's, in the folder of this one, which may be on nobody's path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"lorakit_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def separate_rates(args: Any) -> bool:
    """Whether two different rates are asked for the text encoders."""
    rates = getattr(args, "text_encoder_lr", None)
    trained = not getattr(args, "network_train_unet_only", False)
    return trained and isinstance(rates, (list, tuple)) and len(rates) > 1 and rates[0] != rates[1]


def resident() -> int | None:
    """Bytes of memory that this process holds; None where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def device_memory() -> int | None:
    """Bytes of GPU memory that torch has reserved at most; None without CUDA."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return int(cuda.max_memory_reserved()) if cuda is not None and cuda.is_initialized() else None


if __name__ == "__main__":
    main()
