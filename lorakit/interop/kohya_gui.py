"""kohya_ss' settings (flat JSON): names of its boxes, eras with defaults of their own, zeros and empty texts that mean unset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from lorakit.interop.command import OptionWords, read_options
from lorakit.interop.document import Document
from lorakit.interop.imported import Reading, Recipe, Told
from lorakit.interop.intake import Intake
from lorakit.interop.words import split
from lorakit.preset.units import shown
from lorakit.trainers.catalogue import Catalogue

__all__ = ["ERAS", "is_kohya_gui", "read_kohya_gui"]

#: Newest first. The name of an era, and how its front end makes steps of a warmup in percent.
ERAS: Final = ("v26", "v25", "v24", "v23", "2023-02")

_TELLING: Final = frozenset(
    {"LoRA_type", "max_resolution", "lr_warmup", "model_list", "stop_text_encoder_training", "additional_parameters",
     "num_cpu_threads_per_process", "lora_network_weights", "no_token_padding", "epoch", "save_model_as"}
)  # fmt: skip
_RENAMED: Final = {
    "max_resolution": "resolution", "optimizer": "optimizer_type", "lora_network_weights": "network_weights",
    "sdxl_no_half_vae": "no_half_vae", "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
}  # fmt: skip
#: 0 and "" mean that the box was left alone.
_UNSET_AT_ZERO: Final = frozenset(
    {"seed", "max_train_epochs", "max_train_steps", "vae_batch_size", "min_snr_gamma", "noise_offset", "clip_skip",
     "save_last_n_epochs", "save_last_n_epochs_state", "save_last_n_steps", "save_last_n_steps_state", "save_every_n_steps",
     "save_every_n_epochs", "sample_every_n_steps", "sample_every_n_epochs", "min_timestep", "max_timestep", "ip_noise_gamma",
     "v_pred_like_loss", "scale_weight_norms", "network_dropout", "adaptive_noise_scale", "multires_noise_iterations",
     "max_grad_norm", "learning_rate", "network_alpha", "lr_scheduler_power", "multires_noise_discount"}
)  # fmt: skip
_HANDLED: Final = frozenset(
    {"LoRA_type", "lr_warmup", "lr_warmup_steps", "epoch", "xformers", "optimizer_args", "lr_scheduler_args", "sdxl",
     "additional_parameters", "text_encoder_lr", "unet_lr", "use_8bit_adam", "noise_offset_type", "max_token_length",
     "lr_scheduler_num_cycles", "conv_dim", "conv_alpha", "mem_eff_attn", "t5xxl_lr", "num_processes", "gpu_ids",
     "stop_text_encoder_training", "use_wandb", "log_with", "sample_prompts", "max_train_steps", "v2", "v_parameterization"}
)  # fmt: skip
_NETWORK_ARGS: Final = (
    "rank_dropout", "module_dropout", "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims",
    "block_alphas", "conv_block_dims", "conv_block_alphas", "loraplus_lr_ratio", "loraplus_unet_lr_ratio",
    "loraplus_text_encoder_lr_ratio",
)  # fmt: skip
#: Boxes of the front end that say nothing about the training.
_SILENT: Final = frozenset(
    {"model_list", "num_machines", "main_process_port", "dynamo_backend", "dynamo_mode", "dynamo_use_dynamic",
     "dynamo_use_fullgraph", "dreambooth", "training_preset", "log_tracker_config_dir"}
)  # fmt: skip
_LYCORIS: Final = {
    "LyCORIS/LoCon": "locon", "LoCon": "locon", "LyCORIS/LoHa": "loha", "LyCORIS/LoKr": "lokr", "LyCORIS/DyLoRA": "dylora",
    "LyCORIS/iA3": "ia3", "LyCORIS/GLoRA": "glora", "LyCORIS/BOFT": "boft", "LyCORIS/Diag-OFT": "diag-oft",
    "LyCORIS/Native Fine-Tuning": "full",
}  # fmt: skip
_LYCORIS_ARGS: Final = (
    ("LyCORIS_preset", "preset"), ("factor", "factor"), ("use_tucker", "use_tucker"), ("dora_wd", "dora_wd"),
    ("use_scalar", "use_scalar"), ("train_norm", "train_norm"), ("decompose_both", "decompose_both"), ("constrain", "constraint"),
    ("rescaled", "rescaled"), ("bypass_mode", "bypass_mode"),
)  # fmt: skip
_MODULES: Final = {
    "Standard": "networks.lora", "Kohya LoCon": "networks.lora", "LoRA-FA": "networks.lora_fa",
    "Kohya DyLoRA": "networks.dylora", "Kohya LoHa": "networks.loha", "Kohya LoKr": "networks.lokr",
}  # fmt: skip
#: Where the eras' boxes differ as the front end opens; the rest is in _DEFAULTS.
_TE_DEFAULT: Final = {"v26": 1e-4, "v25": 0.0, "v24": 1e-4, "v23": 5e-5, "2023-02": 5e-5}
_DEFAULTS: Final[Mapping[str, Any]] = {
    "learning_rate": 1e-4, "network_dim": 8, "network_alpha": 1.0, "lr_scheduler": "cosine", "train_batch_size": 1,
    "resolution": "512,512", "mixed_precision": "fp16", "save_precision": "fp16", "cache_latents": True,
    "optimizer_type": "AdamW8bit", "caption_extension": ".txt", "enable_bucket": True, "max_bucket_reso": 2048,
    "bucket_no_upscale": True, "max_data_loader_n_workers": 0,
}  # fmt: skip
_DEFAULTS_2023: Final = {
    **_DEFAULTS,
    "learning_rate": 1e-5,
    "max_bucket_reso": 1024,
    "caption_extension": ".caption",
    "seed": 1234,
}


def is_kohya_gui(document: Document) -> bool:
    """Whether a JSON is what kohya_ss saves."""
    return document.kind == "json" and len(_TELLING & document.data.keys()) >= 2 and "lora_rank" not in document.data


def era_of(data: Mapping[str, Any]) -> str:
    """The era that a file's keys belong to."""
    if "learning_rate_te1" not in data and "optimizer" not in data and "use_8bit_adam" in data:
        return "2023-02"
    if "loraplus_lr_ratio" in data or "lr_warmup_steps" in data:
        return "v26" if "t5xxl_lr" in data or "max_train_steps" in data else "v25"
    return "v24" if "log_with" in data or "dynamo_backend" in data else "v23"


def read_kohya_gui(document: Document, era: str | None = None) -> Reading:
    """A file of any era; ``era`` is one of :data:`ERAS` where it is known better than the keys tell it."""
    era = era or era_of(document.data)
    reader = _Reader(document, era)
    return reader.read()


class _Reader:
    def __init__(self, document: Document, era: str) -> None:
        self.document, self.data, self.era = document, document.data, era
        self.intake = Intake()
        self.network_args: list[str] = []

    def said(self, name: str) -> bool:
        """Whether the file says something under a name: null and the empty text do not."""
        return self.data.get(name) not in (None, "")

    def text(self, name: str) -> str:
        return f"{name} = {shown(self.data[name])}"

    def number(self, name: str) -> float:
        """A number that may be stored as text; 0 where there is none."""
        try:
            found = float(self.data.get(name) or 0)
        except (TypeError, ValueError):
            return 0.0
        return found if abs(found) < 1e12 else 0.0

    def put(self, name: str, value: Any, source: str, why: str = "") -> None:
        self.intake.take(name, value, text=self.text(source), line=self.document.line(source), why=why)

    def read(self) -> Reading:
        self._plain_keys()
        self._network()
        self._attention()
        self._lists()
        self._rates()
        keys = self._launch()
        recipe = self._length()
        self._noise()
        self._oddities()
        self._defaults()
        self._additional()
        intake = self.intake
        intake.leave_rest(self._unread(), self._why_left, self.document.line)
        return Reading(
            "kohya-gui", "a settings file of kohya_ss", intake.told, era=self.era, keys=keys,
            unmapped=tuple(intake.unmapped), notes=tuple(intake.notes), recipe=recipe, sdxl=self._sdxl(),
        )  # fmt: skip

    def _unread(self) -> dict[str, Any]:
        """The boxes, without those whose whole meaning came in under another name."""
        read = {"sdxl"} if isinstance(self.data.get("sdxl"), bool) else set()
        if self.data.get("noise_offset_type") in {"Original", "Multires"}:
            read.add("noise_offset_type")
        if isinstance(self.data.get("additional_parameters"), str):
            read.add("additional_parameters")
        return {key: value for key, value in self.data.items() if key not in read}

    def _why_left(self, key: str) -> str:
        """Why a box that nothing was made of does not count."""
        if key in _SILENT:
            return "says nothing about the training itself"
        kind = str(self.data.get("LoRA_type") or "Standard")
        if key in {"conv_dim", "conv_alpha", "unit", *(name for name, _ in _LYCORIS_ARGS)}:
            return f"belongs to another LoRA_type than {kind}"
        return "says nothing that counts beside the other boxes"

    def _sdxl(self) -> bool | None:
        return bool(self.data["sdxl"]) if isinstance(self.data.get("sdxl"), bool) else None

    def _plain_keys(self) -> None:
        flags = Catalogue.load().by_dest()
        lycoris = {name for name, _ in _LYCORIS_ARGS}
        for key, value in self.data.items():
            name = _RENAMED.get(key, key)
            skipped = key in _HANDLED | _SILENT | lycoris | set(_NETWORK_ARGS) or key == "num_cpu_threads_per_process"
            if skipped or value is None or value == "":
                continue
            if name in _UNSET_AT_ZERO and self.number(key) == 0 and str(value).strip() in {"0", "0.0", "0.00"}:
                continue
            if isinstance(value, bool) and not value:
                continue
            if name in flags:
                self.put(name, value, key)
            elif value is not False and value not in (0, "0"):
                line = self.document.line(key)
                self.intake.leave(key, value, "a box of the front end that a LoRA for SDXL does not use", line)
        for key in ("v2", "v_parameterization"):
            if self.data.get(key) is True:
                self.put(key, value=True, source=key)
        if self.said("max_token_length") and str(self.data["max_token_length"]) != "75":
            self.put("max_token_length", self.data["max_token_length"], "max_token_length")

    def _network(self) -> None:
        kind = str(self.data.get("LoRA_type") or "Standard")
        line = self.document.line("LoRA_type")
        if kind in _LYCORIS:
            self.intake.take("network_module", "lycoris.kohya", text=f"LoRA_type = {shown(kind)}", line=line)
            algo = "lora" if _LYCORIS[kind] == "locon" else _LYCORIS[kind]
            self.network_args.append(f"algo={algo}")
            for key, name in _LYCORIS_ARGS:
                if (
                    self.said(key)
                    and self.data[key] is not False
                    and not (key in {"constrain", "factor"} and self.number(key) <= 0)
                ):
                    self.network_args.append(f"{name}={self.data[key]}")
        elif kind in _MODULES:
            self.intake.take("network_module", _MODULES[kind], text=f"LoRA_type = {shown(kind)}", line=line)
        else:
            self.intake.leave("LoRA_type", kind, "a kind of network that is not known here", line)
        if kind == "Kohya LoCon" or kind in _LYCORIS:
            for name in ("conv_dim", "conv_alpha"):
                if self.number(name):
                    self.network_args.append(f"{name}={self.data[name]}")
        elif kind == "Kohya DyLoRA" and self.said("unit"):
            self.network_args.append(f"unit={self.data['unit']}")
        for name in _NETWORK_ARGS:
            if self.said(name) and str(self.data[name]).strip() not in {"0", "0.0"}:
                self.network_args.append(f"{name}={self.data[name]}")
        if self.network_args:
            self.intake.take(
                "network_args", self.network_args, text=f"LoRA_type = {shown(kind)} and its boxes", line=line
            )

    def _attention(self) -> None:
        value = self.data.get("xformers")
        name = (
            {True: "xformers", "xformers": "xformers", "sdpa": "sdpa"}.get(value)
            if isinstance(value, (bool, str))
            else None
        )
        if name:
            self.put(name, value=True, source="xformers")
        elif value is None:
            self.intake.default("xformers", True, f"kohya_ss {self.era}'s default")
        if self.data.get("mem_eff_attn") is True:
            self.put("mem_eff_attn", value=True, source="mem_eff_attn")

    def _lists(self) -> None:
        for name in ("optimizer_args", "lr_scheduler_args"):
            value = self.data.get(name)
            if isinstance(value, str) and value.strip():
                # It removes the quotes and splits at every blank.
                self.put(name, value.replace('"', "").replace("'", "").split(), name)
            elif isinstance(value, list) and value:
                self.put(name, value, name)
        if "optimizer" not in self.data and self.data.get("use_8bit_adam") is not None:
            self.put("optimizer_type", "AdamW8bit" if self.data["use_8bit_adam"] else "AdamW", "use_8bit_adam")
        if self.data.get("use_wandb") in (True, "True"):
            self.intake.leave("use_wandb", True, "lorakit keeps curves in the run folder")
        if self.said("log_with"):
            self.put("log_with", self.data["log_with"], "log_with")
        if self.said("sample_prompts"):
            line = self.document.line("sample_prompts")
            reason = "the prompts themselves: put them into a file and name it as sample.prompts"
            self.intake.leave("sample_prompts", self.data["sample_prompts"], reason, line)

    def _rates(self) -> None:
        """A rate of 0 leaves that part out, unless both are 0: then learning_rate counts for both."""
        te_said, unet_said = self.said("text_encoder_lr"), self.said("unet_lr")
        te = self.number("text_encoder_lr") if te_said else _TE_DEFAULT[self.era]
        unet = self.number("unet_lr") if unet_said else 1e-4
        why = f"kohya_ss {self.era}'s default; the file does not say, and the front end keeps what its box shows"
        for name, rate, said in (("text_encoder_lr", te, te_said), ("unet_lr", unet, unet_said)):
            if rate and said:
                self.put(name, rate, name)
            elif rate:
                self.intake.told[name] = Told([rate] if name == "text_encoder_lr" else rate, "unknown", why=why)
        if te == 0 and unet == 0:
            self.intake.note(
                "both rates are 0", "this front end then trains both parts at learning_rate", "optim.unet_lr"
            )
        elif te == 0 or unet == 0:
            name = "text_encoder_lr" if te == 0 else "unet_lr"
            switch = "network_train_unet_only" if te == 0 else "network_train_text_encoder_only"
            origin = "explicit" if (te_said if te == 0 else unet_said) else "unknown"
            text = self.text(name) if origin == "explicit" else ""
            self.intake.told[switch] = Told(
                True,
                "explicit" if text else "unknown",
                text,
                self.document.line(name),
                "0 leaves this part out" if text else why,
            )
        for name in ("learning_rate_te", "learning_rate_te1", "learning_rate_te2"):
            if self.number(name):
                self.intake.note(
                    f"{name} belongs to other tabs of the front end",
                    "a LoRA has one box, text_encoder_lr",
                    "optim.te_lr",
                )

    def _launch(self) -> dict[str, Told]:
        keys: dict[str, Told] = {}
        for name, key in (("num_cpu_threads_per_process", "launch.threads"), ("num_processes", "launch.processes")):
            number = self.number(name)
            if number >= 1 and number.is_integer():
                keys[key] = Told(int(number), text=self.text(name), line=self.document.line(name))
        if isinstance(self.data.get("gpu_ids"), str) and self.data["gpu_ids"].strip():
            keys["launch.gpu_ids"] = Told(
                self.data["gpu_ids"], text=self.text("gpu_ids"), line=self.document.line("gpu_ids")
            )
        return keys

    def _length(self) -> Recipe:
        """max_train_epochs beats max_train_steps, which beats epoch; the warmup's box is a percentage."""
        epochs, steps = self.number("max_train_epochs"), self.number("max_train_steps")
        asked = self.number("epoch")
        steps_said = "max_train_steps" in self.data
        if epochs:
            steps = 0
        elif steps:
            self.put("max_train_steps", self.data["max_train_steps"], "max_train_steps")
            if asked > 1:
                self.intake.note(
                    f"epoch {asked:g} counts for nothing", f"max_train_steps {steps:g} is not 0, and then it is what is trained",
                    "length.steps",
                )  # fmt: skip
        elif not steps_said and self.era in {"v25", "v26"}:
            why = f"kohya_ss {self.era}'s default: the file has no max_train_steps, so the front end keeps what its box shows"
            self.intake.told["max_train_steps"] = Told(1600, "unknown", why=why)
            steps = 1600
        else:
            epochs = asked or 1
            self.intake.told["max_train_epochs"] = Told(
                max(1, round(epochs)), "derived", self.text("epoch") if "epoch" in self.data else "", self.document.line("epoch"),
                "the front end makes steps of epochs; lorakit counts them itself",
            )  # fmt: skip
        exact = self.era in {"v25", "v26"}
        ratio, absolute = self._warmup()
        return Recipe(
            epochs=epochs or None, steps=int(steps) or None, warmup_ratio=ratio, warmup_steps=absolute,
            rounding="floor" if exact else "half-even", base="exact" if exact else "estimated",
        )  # fmt: skip

    def _warmup(self) -> tuple[float | None, int | None]:
        absolute = self.number("lr_warmup_steps")
        if absolute >= 1:
            self.put("lr_warmup_steps", int(absolute), "lr_warmup_steps")
            return None, int(absolute)
        said = self.said("lr_warmup")
        percent = self.number("lr_warmup") if said else 10.0
        if said and not percent.is_integer():
            self.intake.note(
                f"{self.text('lr_warmup')} percent", "the front end reads whole percents from a file and cuts the rest"
            )
            stored = self.data["lr_warmup"]
            percent = 0.0 if isinstance(stored, str) else float(int(percent))
        if self.data.get("lr_scheduler") == "constant" and percent:
            self.intake.note(
                "constant with a warmup", "the trainer stops at it; the warmup is left out", "optim.warmup"
            )
            self.intake.leave("lr_warmup", self.data.get("lr_warmup", 10), "constant cannot warm up")
            return None, None
        if not percent:
            return None, None
        if 0 < percent < 100:
            why = "percent" if said else f"kohya_ss {self.era}'s default: the file does not say"
            text = self.text("lr_warmup") if said else ""
            line = self.document.line("lr_warmup")
            self.intake.told["lr_warmup_steps"] = Told(
                percent / 100, "explicit" if said else "unknown", text, line, why
            )
            return percent / 100, None
        self.intake.leave("lr_warmup", self.data["lr_warmup"], "percent of the run: it leaves nothing to train")
        return None, None

    def _noise(self) -> None:
        """Only the boxes of the chosen kind of noise count."""
        kind = self.data.get("noise_offset_type", "Original")
        groups = {
            "Original": ("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"),
            "Multires": ("multires_noise_iterations", "multires_noise_discount"),
        }
        for group, names in groups.items():
            for name in names:
                if group != kind and name in self.intake.told:
                    told = self.intake.told.pop(name)
                    self.intake.leave(
                        name, told.value, f"noise_offset_type is {shown(kind)}: this box does not count", told.line
                    )

    def _oddities(self) -> None:
        cycles = self.data.get("lr_scheduler_num_cycles")
        if self.said("lr_scheduler_num_cycles"):
            self.put("lr_scheduler_num_cycles", cycles, "lr_scheduler_num_cycles")
        elif cycles == "" and self.number("epoch") >= 1 and self.era not in {"v25", "v26"}:
            why = "an empty box means as many cycles as epochs"
            self.put("lr_scheduler_num_cycles", int(self.number("epoch")), "lr_scheduler_num_cycles", why)
        if self.number("stop_text_encoder_training"):
            reason = "the front end sets it to 0 for a LoRA"
            self.intake.leave("stop_text_encoder_training", self.data["stop_text_encoder_training"], reason)
        extension = self.data.get("caption_extension")
        if isinstance(extension, str) and re.search(r"none|txt.+", extension):
            self.intake.note(
                f"captions end in {shown(extension)}",
                "no such files are common: it trains without captions",
                "dataset.caption_extension",
            )
        for name in ("learning_rate", "network_alpha"):
            if name in self.data and self.number(name) == 0:
                falls = {"learning_rate": "2e-6", "network_alpha": "1"}[name]
                self.intake.note(f"{name} is 0", f"the front end leaves zeros out, so sd-scripts takes its own {falls}")

    def _defaults(self) -> None:
        """What the front end's boxes show where the file has nothing: a guess by era, since they keep what they had."""
        defaults = _DEFAULTS_2023 if self.era == "2023-02" else _DEFAULTS
        why = f"not in the file: what kohya_ss {self.era} opens with"
        for name, value in defaults.items():
            box = next((key for key, target in _RENAMED.items() if target == name), name)
            if name not in self.intake.told and box not in self.data and name not in self.data:
                self.intake.default(name, value, why)
                self.intake.told[name] = replace(self.intake.told[name], origin="unknown")

    def _additional(self) -> None:
        """Words appended to the command line, which overrides the file that holds the rest."""
        extra = self.data.get("additional_parameters")
        if not isinstance(extra, str) or not extra.strip():
            return
        line = self.document.line("additional_parameters")
        words = [word for word in split(" ".join(extra.split()), "cmd") if not word.end]
        read = read_options(OptionWords.of(words), format_name="", title="")
        for name, told in read.arguments.items():
            self.intake.told[name] = replace(told, line=line, why="additional_parameters override the boxes")
            if name == "network_train_unet_only":
                self.intake.told.pop("text_encoder_lr", None)
        self.intake.unmapped += [replace(one, line=line) for one in read.unmapped]
