"""What the README shows exists, loads and runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from lorakit.cli.app import command
from lorakit.preset.files import load_preset
from lorakit.workspace import MARKER
from tests.bench_models import bench_checkpoint

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def quickstart_output() -> str:
    (shown,) = re.findall(r"<!-- quickstart -->\n```text\n(.*?)```\n<!-- /quickstart -->", README, re.DOTALL)
    return str(shown)


def test_every_command_that_is_shown_exists() -> None:
    shown = set(re.findall(r"`(?:\.venv/bin/)?lorakit ([a-z-]+)", README)) | set(
        re.findall(r"^ {4}(?:\.venv/bin/)?lorakit ([a-z-]+)", README, re.MULTILINE)
    )
    assert {"plan", "bake", "sweep", "compare", "init"} <= shown
    assert shown <= set(command().commands)


def test_every_link_leads_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_preset_that_ships_is_in_the_table_and_the_other_way_round() -> None:
    table = README.split("## What ships")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z0-9-]+)`", table))
    assert named == {path.stem for path in (ROOT / "presets").glob("*.toml")}


def test_the_preset_loads(tmp_path: Path) -> None:
    preset, workspace = blocks("toml")
    (tmp_path / "presets").mkdir()
    for shipped in (ROOT / "presets").glob("*.toml"):
        (tmp_path / "presets" / shipped.name).write_bytes(shipped.read_bytes())
    path = tmp_path / "presets" / "hifumi.toml"
    path.write_text(preset, encoding="utf-8")
    assert load_preset(path).preset.name == "hifumi"
    assert set(tomllib.loads(workspace)) == {"sd_scripts"}


def test_the_quickstart_shows_a_real_run() -> None:
    shown = quickstart_output()
    assert re.search(
        r"✓ quickstart_\w{4} {2}\d+ steps in \d:\d\d · loss [\d.]+ → [\d.]+ · \d+ checkpoints? · sealed", shown
    )
    assert shown.count("lorakit ") >= 3


def test_the_python_example_bakes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "lorakit", "init", str(tmp_path)], check=True, capture_output=True)
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models" / "bench-sdxl.safetensors").hardlink_to(bench_checkpoint("tiny"))
    assert (tmp_path / MARKER).exists()
    (example,) = blocks("python")
    example = example.replace('["length.steps=20"]', '["length.steps=2"]')  # the test need not wait
    assert "length.steps=2" in example
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "2"
    assert str(tmp_path / "runs") in done.stdout
