"""Every kind of network: rendering, plan and the built-in trainer against what the real sd-scripts made, as recorded.

The data hold on every machine; where there is a checkout (see ``checkout``), a few cases are recorded again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lorakit.plan.from_preset import plan_input
from lorakit.plan.kinds import recipe_of
from lorakit.plan.network import network_size, sdxl_shapes
from lorakit.preset.kinds import title
from lorakit.preset.models import Preset
from lorakit.preset.rules import check
from lorakit.trainers.builtin.options import NetworkOptions, parse
from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.readback import preset_values
from lorakit.trainers.render import RenderPaths, render
from lorakit.workspace import Workspace
from tests.conformance.checkout import needs_checkout
from tests.conformance.network_cases import CASES, DATA_FOLDER, Case
from tests.conformance.record_networks import DATA, record, summary

if TYPE_CHECKING:
    from lorakit.trainers.builtin.lora import LoraNetwork

RECORDED: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))["cases"]

#: Cases that are recorded again where there is a checkout.
AGAIN = ("locon", "block-rates", "lora-fa-conv", "oft-all", "lycoris-loha", "lycoris-lokr", "dylora-unit")

#: The checkpoint that was trained on.
SLIM = sdxl_shapes(32, (64, 12), (64, 32))

ALLOWED = [name for name, case in CASES.items() if not case.refused]
REFUSED = [name for name, case in CASES.items() if case.refused]
BUILTIN = [name for name in ALLOWED if CASES[name].preset().network.module in {"networks.lora", "networks.lora_fa"}]
#: The slow tests do the rest.
QUICK = {"conv-block-dims", "block-curves", "lora-fa-conv"}
SPOKEN = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUILTIN]


def command(case: Case, kind: Any = "sd-scripts") -> tuple[str, ...]:
    return render(case.preset(), RenderPaths(Path("/"), Path("/out"), Path("/logs")), kind=kind)


def part_of(name: str) -> str:
    """A group's name as the trainer says it: the text encoders are one."""
    return name.replace("te1", "textencoder")


def test_every_case_was_recorded_as_it_is_now() -> None:
    assert {name: case.digest() for name, case in CASES.items()} == {
        name: found["case"] for name, found in RECORDED.items()
    }


@pytest.mark.parametrize("name", ALLOWED)
def test_what_no_rule_refuses_was_trained(name: str) -> None:
    assert [finding for finding in check(CASES[name].preset(), "sd-scripts") if finding.level == "error"] == []
    assert RECORDED[name]["exit"] == 0
    assert RECORDED[name]["moved"] > 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_rule_refuses_does_no_good(name: str) -> None:
    errors = {finding.code for finding in check(CASES[name].preset(), "sd-scripts") if finding.level == "error"}
    assert CASES[name].refused in errors
    found = RECORDED[name]
    if name == "lora-fa-plus":  # passed over: no group of its own
        assert [group[:2] for group in found["groups"]] == [[None, 1e-4]]
    elif name == "dylora-te":  # TE1 is lost, and the rest has names that no program knows
        assert found["modules"] == {"te": 192, "unet": 722}
    elif name == "oft-te":
        assert found["modules"] == {"unet": 560}
    else:
        assert found["exit"] == 1


@pytest.mark.parametrize("name", ALLOWED)
def test_the_command_comes_back_as_the_same_network(name: str) -> None:
    preset = CASES[name].preset()
    values = preset_values(Catalogue.load().parser().parse_args(command(CASES[name])))
    again = Preset.model_validate({**preset.model_dump(mode="json"), "network": values["network"]})
    assert command_of(again) == command_of(preset)
    assert title(again.network) == title(preset.network)


def command_of(preset: Preset) -> tuple[str, ...]:
    return render(preset, RenderPaths(Path("/"), Path("/out"), Path("/logs")), kind="sd-scripts")


@pytest.mark.parametrize("name", ALLOWED)
def test_the_planned_size_is_that_of_the_file(name: str) -> None:
    case, found = CASES[name], RECORDED[name]
    parts = [*(["te1", "te2"] if case.te else []), *(["unet"] if case.unet else [])]
    recipe, exact = recipe_of(case.preset())
    size = network_size(SLIM, parts, recipe)
    if not exact:
        assert size.total_parameters == pytest.approx(sum(found["numbers"].values()), rel=0.7)
        return
    assert size.modules == found["modules"]
    assert size.tensors == found["tensors"]
    assert size.parameters == found["numbers"]
    assert size.total_trained == sum(group[3] for group in found["groups"])


@pytest.mark.parametrize("name", ALLOWED)
def test_every_group_has_its_planned_rate(name: str, tmp_path: Path) -> None:
    (tmp_path / DATA_FOLDER / "1_thing").mkdir(parents=True)
    preset = CASES[name].preset()
    asked = plan_input(preset, Workspace(tmp_path))
    rates = {part_of(part): rate for part, rate in asked.rates.items() if not part.startswith("te2")}
    if any(part.startswith("unet_block") for part in rates):
        rates = {part: rate for part, rate in rates.items() if part not in {"unet", "unet plus"}}
    recorded = RECORDED[name]["groups"]
    names = sorted(rates, key=lambda part: not part.startswith("textencoder"))
    told = {group[0] or unnamed: group[1] for group, unnamed in zip(recorded, names, strict=False)}
    assert told == pytest.approx(rates, rel=1e-12)


# ---- the built-in trainer ----


@pytest.fixture(scope="module")
def slim() -> Any:
    """The slim model's modules without memory for their weights: a LoRA asks for their shapes alone."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from lorakit.bench_model.shape import SIZES, tensor_shapes
    from lorakit.trainers.builtin import shapes
    from lorakit.trainers.builtin.checkpoint import PREFIXES, BaseModel

    path = Path("slim.safetensors")
    found = tensor_shapes(SIZES["slim"])
    inner = {part: {k.removeprefix(p): v for k, v in found.items() if k.startswith(p)} for part, p in PREFIXES.items()}
    with torch.device("meta"):
        return BaseModel(
            UNet2DConditionModel(**shapes.unet_config(inner["unet"], inner["te2"], path)),
            CLIPTextModel(CLIPTextConfig(**shapes.te1_config(inner["te1"], path))),
            CLIPTextModelWithProjection(CLIPTextConfig(**shapes.te2_config(inner["te2"], path))),
            torch.nn.Module(),
            path,
        )


@pytest.mark.parametrize("name", SPOKEN)
def test_the_built_in_trainer_starts_from_the_same_weights_in_the_same_groups(name: str, slim: Any) -> None:
    from lorakit.trainers.builtin.optim import plan_groups

    options = parse([*command(CASES[name], "builtin")])
    network = built(slim, options.network)
    start = {
        key: (list(tensor.shape), float(tensor.double().sum()), float(tensor.double().square().sum()))
        for key, tensor in network.state_dict().items()
    }
    told, recorded = summary(start), RECORDED[name]["start"]
    assert told["names"] == recorded["names"]
    assert told["kinds"].keys() == recorded["kinds"].keys()
    for kind, (count, *sums) in recorded["kinds"].items():
        assert told["kinds"][kind][0] == count
        assert told["kinds"][kind][1:] == pytest.approx(sums, rel=1e-6, abs=1e-9), kind
    weights = {
        part: [
            (module.block, {f"{n}.{key}": value for key, value in module.learning().items()})
            for n, module in enumerate(found)
        ]
        for part, found in network.parts.items()
    }
    groups: dict[str, list[float]] = {}
    for group in plan_groups(weights, options.optim, options.network):
        entry = groups.setdefault(part_of(group.name).replace("te2", "textencoder"), [group.rate, 0, 0])
        entry[1] += len(group.parameters)
        entry[2] += sum(parameter.numel() for parameter in group.parameters)
    names = [group[0] for group in RECORDED[name]["groups"]]
    unnamed = [key for key in groups if None in names]
    assert groups == {key or unnamed[n]: pytest.approx(rest) for n, (key, *rest) in enumerate(RECORDED[name]["groups"])}


def built(base: Any, options: NetworkOptions) -> LoraNetwork:
    """The network as the built-in trainer makes it, from the hook's seed."""
    import torch

    from lorakit.trainers.builtin.setup import make_network
    from tests.conformance.network_hook import SEED

    torch.manual_seed(SEED)
    network = make_network(base, options)
    network.detach()
    return network


@pytest.mark.parametrize("name", [name for name in ALLOWED if name not in BUILTIN])
def test_what_the_built_in_trainer_does_not_train_it_refuses_by_name(name: str) -> None:
    from lorakit.trainers import builtin_support

    arguments = Catalogue.load().parser().parse_args(command(CASES[name], "builtin"))
    (problem,) = builtin_support.not_implemented(arguments)
    assert problem.key == "network_module"
    assert CASES[name].preset().network.module in problem.what


@pytest.mark.parametrize("names", [pytest.param(AGAIN, marks=needs_checkout)])
def test_recorded_again_it_is_the_same(names: tuple[str, ...], tmp_path: Path) -> None:
    found: Mapping[str, Any] = dict(record([CASES[name] for name in names], tmp_path))
    for name in names:
        before, now = dict(RECORDED[name]), dict(found[name])
        # The metadata hold times of which some are a digit longer than others, and the header is padded to eight bytes.
        assert abs(before.pop("bytes", 0) - now.pop("bytes", 0)) <= 64, name
        differences = {key: (before.get(key), now.get(key)) for key in before | now if before.get(key) != now.get(key)}
        assert not differences, name
