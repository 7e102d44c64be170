"""The real sd-scripts reads lorakit's commands as lorakit's own parser does."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings

from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.render import render
from tests.conformance.checkout import CHECKOUT, PYTHON, needs_checkout
from tests.preset.strategies import presets
from tests.trainers.presets import NAMES, PATHS, shipped
from tests.trainers.test_render import options_of_extra

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lorakit.preset.models import Preset

pytestmark = needs_checkout

#: Reads argument lists, one JSON array a line, and writes what the script's own parser makes of each.
READER = """
import json, sys
import sdxl_train_network
parser = sdxl_train_network.setup_parser()
with open(sys.argv[1], encoding="utf-8") as lines, open(sys.argv[2], "w", encoding="utf-8") as out:
    for line in lines:
        print(json.dumps(vars(parser.parse_args(json.loads(line))), default=str, sort_keys=True), file=out)
"""


def as_the_script_reads(commands: Sequence[Sequence[str]], folder: Path) -> list[dict[str, Any]]:
    asked, told = folder / "asked.jsonl", folder / "told.jsonl"
    asked.write_text("".join(json.dumps(command) + "\n" for command in commands), encoding="utf-8")
    done = subprocess.run(
        [PYTHON, "-c", READER, str(asked), str(told)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]


def as_lorakit_reads(command: Sequence[str]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(vars(Catalogue.load().parser().parse_args(command)), default=str))
    return read


def random_commands(count: int) -> list[tuple[str, ...]]:
    """Commands of presets of any kind."""
    commands: list[tuple[str, ...]] = []

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(presets({("extra",): options_of_extra()}))
    def collect(preset: Preset) -> None:
        rates = preset.optim.te_lr
        if preset.optim.unet_lr and not rates.is_pair:
            commands.append(render(preset.model_copy(update={"seed": 1}), PATHS, kind="sd-scripts"))

    collect()
    return commands


def test_both_parsers_read_the_same(tmp_path: Path) -> None:
    commands = [render(shipped(name), PATHS, kind="sd-scripts") for name in NAMES] + random_commands(300)
    assert len(commands) > 100
    for command, theirs in zip(commands, as_the_script_reads(commands, tmp_path), strict=True):
        ours = as_lorakit_reads(command)
        assert {name: value for name, value in theirs.items() if name in ours} == ours, command
        assert set(theirs) == set(ours)
