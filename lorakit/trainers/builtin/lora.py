"""The LoRA network, compatible with kohya's ``networks.lora``: modules, names, scale, initialisation, dropouts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from lorakit.errors import ModelFileError
from lorakit.preset.blocks import Blocks, block_of
from lorakit.trainers.builtin.checkpoint import BaseModel
from lorakit.trainers.builtin.low_rank import linear_with_pair
from lorakit.trainers.builtin.names import UnetStructure, lora_name
from lorakit.trainers.builtin.tensorfile import open_tensors

__all__ = ["LoadReport", "LoraModule", "LoraNetwork", "Target", "targets", "text_targets", "unet_targets"]

PARTS = ("te1", "te2", "unet")

_TE_LAYER = (
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.q_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
#: The order in which the original UNet defines the parts of a transformer block: random numbers are drawn in it.
_UNET_LAYER = (
    *(f"attn1.{name}" for name in _ATTENTION),
    "ff.net.0.proj",
    "ff.net.2",
    *(f"attn2.{name}" for name in _ATTENTION),
)
_RESNET = (("conv1", True), ("time_emb_proj", False), ("conv2", True), ("conv_shortcut", False))


@dataclass(frozen=True)
class Target:
    """A module of the base model that gets a LoRA: its LoRA name, and whether it is one of the 3x3 convolutions."""

    name: str
    module: nn.Linear | nn.Conv2d
    wide: bool = False

    @property
    def block(self) -> int:
        """The UNet's block that it belongs to, as the trainer counts them."""
        return block_of(self.name)


@dataclass(frozen=True)
class LoadReport:
    """What ``load_kohya`` did not match: modules of the network that the file lacks, and keys that it has too many."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True)
class Attachment:
    """A module whose ``forward`` is taken over, until ``remove``."""

    target: nn.Module
    forward: Callable[..., torch.Tensor]

    def remove(self) -> None:
        """Give the module its own ``forward`` back."""
        self.target.forward = self.forward


class LoraModule(nn.Module):
    """One low-rank pair beside a Linear or Conv2d: ``y + up(down(x)) * multiplier * alpha / dim``.

    It is attached in front of ``forward``, so the base module keeps its identity, its weights and its place. ``frozen_down``:
    the down-projection stays as it was drawn (LoRA-FA, which draws it from a normal distribution).
    """

    alpha: torch.Tensor

    def __init__(
        self,
        target: nn.Linear | nn.Conv2d,
        dim: int,
        alpha: float,
        *,
        dropout: float | None = None,
        rank_dropout: float | None = None,
        module_dropout: float | None = None,
        frozen_down: bool = False,
        block: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.block = block
        self.scale = alpha / dim
        self.multiplier = 1.0
        self.dropout = dropout
        self.rank_dropout = rank_dropout
        self.module_dropout = module_dropout
        self.lora_down: nn.Linear | nn.Conv2d
        self.lora_up: nn.Linear | nn.Conv2d
        if isinstance(target, nn.Conv2d):
            kernel, stride, padding = target.kernel_size, target.stride, target.padding
            self.lora_down = nn.Conv2d(target.in_channels, dim, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
            self.lora_up = nn.Conv2d(dim, target.out_channels, 1, bias=False)
        else:
            self.lora_down = nn.Linear(target.in_features, dim, bias=False)
            self.lora_up = nn.Linear(dim, target.out_features, bias=False)
        if frozen_down:
            # Xavier's width over channels alone: a kernel's area does not count.
            out, into = self.lora_down.weight.shape[:2]
            nn.init.normal_(self.lora_down.weight, std=math.sqrt(2 / (out + into)))
        else:
            nn.init.kaiming_uniform_(self.lora_down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_up.weight)
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.frozen_down = frozen_down

    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not (self.frozen_down and name.startswith("lora_down"))
        }

    def attach(self, target: nn.Linear | nn.Conv2d) -> Attachment:
        """Add this LoRA's output to that of ``target`` until the returned handle is removed."""
        alone = target.forward
        target.forward = lambda x: self.beside(target, alone, x)  # type: ignore[method-assign, assignment]
        return Attachment(target, alone)

    def beside(
        self, target: nn.Linear | nn.Conv2d, alone: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        """The output of ``target``, whose own ``forward`` is ``alone``, with this LoRA's added."""
        if isinstance(target, nn.Linear) and self.is_plain(target, x):
            scale = self.scale * self.multiplier
            down, up = self.lora_down.weight, self.lora_up.weight
            return linear_with_pair(x, target.weight, target.bias, down=down, up=up, scale=scale)
        output = alone(x)
        delta: torch.Tensor | None = self(x)
        return output if delta is None else output + delta.to(output.dtype)

    def is_plain(self, target: nn.Linear, x: torch.Tensor) -> bool:
        """Whether nothing is dropped, and base, LoRA and input are of one format or autocast makes them so."""
        drops = (self.dropout, self.rank_dropout, self.module_dropout)
        if self.training and any(drop is not None for drop in drops):
            return False
        same = x.dtype == target.weight.dtype == self.lora_down.weight.dtype
        return same or torch.is_autocast_enabled(x.device.type)

    def forward(self, x: torch.Tensor) -> torch.Tensor | None:
        """What to add to the base module's output; None when module dropout leaves this LoRA out."""
        if self.training and self.module_dropout is not None and torch.rand(1).item() < self.module_dropout:
            return None
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.lora_down.weight.dtype)  # a base in half precision beside fp32 LoRA weights
        hidden = self.lora_down(x)
        scale = self.scale * self.multiplier
        if self.training and self.dropout is not None:
            hidden = functional.dropout(hidden, p=self.dropout)
        if self.training and self.rank_dropout is not None:
            mask = torch.rand((hidden.size(0), self.dim), device=hidden.device) > self.rank_dropout
            rank_axis = 1 if isinstance(self.lora_down, nn.Conv2d) else hidden.ndim - 1
            shape = [1] * hidden.ndim
            shape[0], shape[rank_axis] = mask.shape
            hidden = hidden * mask.view(shape)
            scale *= 1.0 / (1.0 - self.rank_dropout)
        delta: torch.Tensor = self.lora_up(hidden) * scale
        return delta


class LoraNetwork(nn.Module):
    """All LoRA modules of a base model; ``state_dict()`` has the keys of a LoRA file.

    ``parts`` holds the trained modules of "te1", "te2" and "unet"; a part that is not trained has no entry.
    """

    def __init__(self, dim: int, alpha: float) -> None:
        super().__init__()
        self.dim = dim
        self.network_alpha = alpha
        self.parts: dict[str, list[LoraModule]] = {}
        self._handles: list[Attachment] = []
        self._multiplier = 1.0

    @classmethod
    def create(
        cls,
        base: BaseModel,
        *,
        dim: int,
        alpha: float,
        dropout: float | None = None,
        rank_dropout: float | None = None,
        module_dropout: float | None = None,
        train_unet: bool = True,
        train_text_encoders: bool = True,
        conv_dim: int | None = None,
        conv_alpha: float = 1.0,
        blocks: Blocks | None = None,
        frozen_down: bool = False,
    ) -> LoraNetwork:
        """Make the network and attach it. An alpha of 0 means alpha = dim; ``conv_dim`` adds the convolutions.

        ``blocks`` says dims and alphas of the UNet in place of these four; ``frozen_down`` makes it a LoRA-FA.

        Weights are drawn from torch's global generator for TE1, TE2, UNet in that order, those of an untrained part
        included: the UNet starts from the same weights whether the text encoders are trained beside it or not.
        """
        blocks = blocks or Blocks.of(dim=dim, alpha=alpha, conv_dim=conv_dim, conv_alpha=conv_alpha)
        network = cls(dim, alpha or float(dim))
        trained = {"te1": train_text_encoders, "te2": train_text_encoders, "unet": train_unet}
        for part, found in targets(base, with_convolutions=blocks.conv_dims is not None).items():
            modules: list[LoraModule] = []
            for target in found:
                sizes = blocks.layer(target.block, wide=target.wide) if part == "unet" else (dim, alpha or float(dim))
                if sizes is None:
                    continue
                module = LoraModule(
                    target.module,
                    *sizes,
                    dropout=dropout,
                    rank_dropout=rank_dropout,
                    module_dropout=module_dropout,
                    frozen_down=frozen_down,
                    block=target.block if part == "unet" and blocks.rated else None,
                )
                if trained[part]:
                    network.add_module(target.name, module)
                    network._handles.append(module.attach(target.module))
                    modules.append(module)
            if trained[part]:
                network.parts[part] = modules
        return network

    @property
    def multiplier(self) -> float:
        """Factor on every LoRA's output; 0 gives the base model."""
        return self._multiplier

    @multiplier.setter
    def multiplier(self, value: float) -> None:
        self._multiplier = value
        for modules in self.parts.values():
            for module in modules:
                module.multiplier = value

    @property
    def attached(self) -> list[tuple[nn.Module, LoraModule]]:
        """The base model's modules that this network is attached to, each with its LoRA."""
        modules = itertools.chain.from_iterable(self.parts.values())
        return [(handle.target, module) for handle, module in zip(self._handles, modules, strict=True)]

    def detach(self) -> None:
        """Take the network off the base model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def parameters_of(self, part: str) -> list[nn.Parameter]:
        """The trained weights of "te1", "te2" or "unet"; empty when the part is not trained."""
        return [parameter for module in self.parts.get(part, []) for parameter in module.learning().values()]

    def kohya_state_dict(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Detached CPU copies of ``<name>.alpha``, ``.lora_down.weight`` and ``.lora_up.weight``, cast to ``dtype``."""
        return {
            key: value.detach().to("cpu", dtype or value.dtype, copy=True).contiguous()
            for key, value in self.state_dict().items()
        }

    def load_kohya(self, path: Path) -> LoadReport:
        """Start from the weights of a LoRA file.

        Its dim and alpha must be the network's: a file whose alpha differs would train at one scale and be saved
        with another.

        Raises:
            ModelFileError: not a LoRA file, or one of other dim, alpha, shape, or of no module in common.
        """
        with open_tensors(path) as file:
            loaded = file.tensors("")
        ours = self.state_dict()
        common = {key: value for key, value in loaded.items() if key in ours}
        if not common:
            raise ModelFileError(
                f"{path}: no LoRA module of this network is in it",
                why=f"its keys are like {', '.join(sorted(loaded)[:2]) or '(none)'}",
                todo="give a LoRA file in kohya's format for SDXL",
            )
        for key in sorted(common, key=lambda key: key.endswith(".alpha")):  # shapes first: another dim explains more
            self._check(path, key, common[key], ours[key])
        self.load_state_dict(common, strict=False)
        missing = sorted({key.split(".", 1)[0] for key in ours.keys() - common.keys()})
        return LoadReport(tuple(missing), tuple(sorted(loaded.keys() - ours.keys())))

    def _check(self, path: Path, key: str, value: torch.Tensor, ours: torch.Tensor) -> None:
        if key.endswith(".alpha"):
            if not math.isclose(float(value), float(ours), rel_tol=1e-3):
                raise ModelFileError(
                    f"{path}: its alpha is {float(value):g}, the network's {float(ours):g}",
                    why="the weights would train at one scale and be saved with another",
                    todo=f"set network alpha to {float(value):g}, as the file has it",
                )
        elif value.shape != ours.shape:
            rank = value.shape[0] if key.endswith("lora_down.weight") else value.shape[1]
            raise ModelFileError(
                f"{path}: {key} has the shape {tuple(value.shape)}, the network asks for {tuple(ours.shape)}",
                why=f"the file's dim is {rank}, the network's is {self.dim}, or it was made for another base model",
                todo=f"set network dim to {rank}, or choose another file",
            )


def targets(base: BaseModel, *, with_convolutions: bool = False) -> dict[str, list[Target]]:
    """The modules that get a LoRA, by part, in the order in which kohya creates them.

    For the real SDXL: 72 in TE1, 192 in TE2, 722 in the UNet, or 788 ``with_convolutions``.
    """
    return {
        "te1": list(text_targets(base.te1, "lora_te1")),
        "te2": list(text_targets(base.te2, "lora_te2")),
        "unet": list(unet_targets(base.unet, with_convolutions=with_convolutions)),
    }


def text_targets(encoder: nn.Module, prefix: str) -> Iterator[Target]:
    """Those of one text encoder; ``prefix`` is lora_te1 or lora_te2."""
    # transformers 5 dropped the wrapper "text_model" of one class; LoRA names have it in both
    model = encoder.get_submodule("text_model") if hasattr(encoder, "text_model") else encoder
    for index, layer in model.get_submodule("encoder.layers").named_children():
        for path in _TE_LAYER:
            name = lora_name(prefix, f"text_model.encoder.layers.{index}.{path}")
            yield _target(name, layer.get_submodule(path), wide=False)


def unet_targets(unet: nn.Module, *, with_convolutions: bool) -> Iterator[Target]:
    """Those of the UNet."""
    structure = UnetStructure.from_diffusers(name for name, _ in unet.named_parameters())
    for block in structure.blocks():
        module = unet.get_submodule(block.diffusers)
        if block.kind == "attention":
            depth = len(module.get_submodule("transformer_blocks"))  # type: ignore[arg-type]
            paths = [f"transformer_blocks.{index}.{path}" for index in range(depth) for path in _UNET_LAYER]
            for path in ["proj_in", *paths, "proj_out"]:
                yield _target(lora_name("lora_unet", f"{block.ldm}.{path}"), module.get_submodule(path), wide=False)
        elif with_convolutions:
            parts = _RESNET if block.kind == "resnet" else (("conv", True),)
            for path, wide in parts:
                if getattr(module, path, None) is not None:
                    name = structure.to_ldm(f"{block.diffusers}.{path}")
                    yield _target(lora_name("lora_unet", name), module.get_submodule(path), wide=wide)


def _target(name: str, module: nn.Module, *, wide: bool) -> Target:
    assert isinstance(module, (nn.Linear, nn.Conv2d)), name
    return Target(name, module, wide)
