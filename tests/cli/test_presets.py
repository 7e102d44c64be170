"""`lorakit check`, `plan`, `render`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from lorakit.cli import plan_screen, screen
from lorakit.cli.presets import baker_of, load
from lorakit.plan import plan as plan_of
from lorakit.preset.rules import check as findings_of
from lorakit.trainers.catalogue import Catalogue
from lorakit.workspace import Workspace
from tests.cli.running import Cli, golden

REPO = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (REPO / "presets").glob("*.toml"))
BROKEN = "--set=memory.cache_text_encoder_outputs=true"


def page(workspace: Workspace, *sets: str, width: int | None = 100) -> str:
    resolved = load("quickstart", sets, workspace)
    baker = baker_of(resolved, workspace)
    lines = plan_screen.plan_page(
        resolved.preset,
        plan_of(resolved.preset, workspace),
        baker=baker,
        findings=findings_of(resolved.preset, baker.kind),
        asked="quickstart",
        width=width,
    )
    if width is not None:
        assert max(line.cell_len for line in lines[1:10]) <= width
    text = "".join(f"{line.plain}\n" for line in lines)
    return re.sub(r"of \S+ \S+ free", "of SPACE free", text.replace(str(workspace.root), "WORK"))


def test_plan(workspace: Workspace) -> None:
    golden("plan.txt", page(workspace))


def test_plan_of_another_kind(workspace: Workspace) -> None:
    sets = (
        "name=[b]花見[!b]",
        "length.steps=",
        "length.epochs=3",
        "length.gradient_accumulation=2",
        "optim.warmup=5 steps",
        "optim.te_lr=[1e-4,0.00002]",
        "optim.schedule=polynomial",
        "save.state=true",
        "validation.split=0",
        "launch.processes=2",
    )
    golden("plan_other.txt", page(workspace, *sets, width=80))


def test_plan_of_several_folders_and_shapes(workspace: Workspace) -> None:
    sizes = {"10_hana": [(768, 1024)] * 5 + [(1024, 1024)] * 3, "2_ship": [(1600, 900), (640, 1536), (300, 200)]}
    for folder, shapes in sizes.items():
        (workspace.root / "datasets" / "mine" / folder).mkdir(parents=True)
        for index, shape in enumerate(shapes):
            path = workspace.root / "datasets" / "mine" / folder / f"{index}.png"
            Image.new("1", shape).save(path)
            path.with_suffix(".txt").write_text(f"hana, picture {index}", encoding="utf-8")
    (workspace.root / "datasets" / "mine" / "2_ship" / "torn.jpg").write_bytes(b"no picture")
    mine = (
        "dataset.path=datasets/mine",
        "dataset.resolution=1024",
        "dataset.bucket_max=2048",
        "dataset.bucket_min=256",
    )
    kept = ("dataset.bucket_step=64", "validation.split=0", "dataset.skip_unreadable=true")
    golden("plan_buckets.txt", page(workspace, *mine, *kept))


def test_plan_says_what_stops_the_bake(workspace: Workspace, cli: Cli) -> None:
    done = cli("plan", "quickstart", BROKEN)
    assert "error LK021  " in done.out
    assert done.out.endswith("next: lorakit check quickstart\n")


def test_plan_json(workspace: Workspace, cli: Cli) -> None:
    found = cli("plan", "quickstart", "--json", "--set", "length.steps=20").json
    keys = {"images", "skipped", "buckets", "batches_per_epoch", "epochs", "total_steps", "warmup_steps", "lr"}
    assert keys <= set(found)
    assert found["total_steps"] == 20
    assert {"width", "height", "count"} <= set(found["buckets"][0])
    assert set(found["lr"]) == {"unet", "te1", "te2"}
    assert found["trainer"] == "builtin"
    assert cli("plan", "quickstart", BROKEN, "--json").json["findings"][0]["code"] == "LK021"


def test_why(workspace: Workspace, cli: Cli) -> None:
    out = cli("plan", "quickstart", "--why", "--set", "network.dim=4").out
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["network.dim"].split() == ["network.dim", "4", "--set", "network.dim=4"]
    assert lines["optim.unet_lr"].split()[1] == "3e-3"
    assert "presets/quickstart.toml:" in lines["optim.unet_lr"]
    assert lines["loss.type"].split() == ["loss.type", "l2", "default"]
    found = cli("plan", "quickstart", "--why", "--json").json
    assert found["network.dim"]["value"] == 8
    assert found["network.dim"]["from"]["kind"] == "preset"
    assert found["network.dim"]["from"]["file"].endswith("quickstart.toml")
    assert set(found) == set(lines)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_preset_keeps_its_rules(name: str, workspace: Workspace, cli: Cli) -> None:
    out = cli("check", name).out
    assert f"✓ {name}" in out
    assert "error" not in out


def test_check(workspace: Workspace, cli: Cli) -> None:
    done = cli("check", "quickstart", BROKEN, code=5)
    assert done.err.startswith("error LK021  --set memory.cache_text_encoder_outputs=true  memory.cache")
    found = cli("check", "quickstart", BROKEN, "--json", code=5).json
    assert [one["code"] for one in found["findings"]] == ["LK021"]
    assert cli("check", "quickstart", "--json").json == {"preset": "quickstart", "trainer": "builtin", "findings": []}


def test_check_warns_of_files_that_are_not_there(workspace: Workspace, cli: Cli) -> None:
    assert "warn  base.model = 'models/bench-sdxl.safetensors' is missing" in cli("check", "quickstart").out


def test_a_preset_by_path_or_name(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = cli("check", "quickstart").out
    assert cli("check", "presets/quickstart.toml").out == by_name
    monkeypatch.chdir(workspace.root / "datasets" / "demo")
    assert cli("check", "quickstart").out == by_name
    assert cli("plan", "quickstrt", code=4).err.count("did you mean") == 1


def test_the_trainer_may_be_named(workspace: Workspace, cli: Cli) -> None:
    assert "trainer sd-scripts, not installed" in cli("plan", "quickstart", "--trainer", "sd-scripts").out
    assert cli("plan", "quickstart", "--trainer", "magic", code=4).out == ""


def test_plans_and_checks_need_no_trainer(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorakit.trainers.choose._BUILTIN_NEEDS", ("torch_that_is_not_there",))
    out = cli("plan", "quickstart").out
    assert "built-in trainer, not installed" in out
    assert "pip install 'lorakit[builtin]'" in out
    assert "can be baked; look at the above" in cli("check", "quickstart").out
    assert cli("render", "quickstart", code=8).err.endswith("pip install 'lorakit[builtin]'\n")


def test_every_problem_of_a_preset_is_told_with_its_line(workspace: Workspace, cli: Cli) -> None:
    bad = workspace.presets / "bad name.toml"
    bad.write_text('name = "x"\n[network]\ndim = "y"\nlpha = 3\n[optim]\nwarmup = 100.0\n')
    done = cli("plan", "bad name", code=4)
    for line in (3, 4, 6):
        assert f"presets/bad name.toml:{line}" in done.err
    assert re.search(r"\d problems\n$", done.err)


def test_render(workspace: Workspace, cli: Cli) -> None:
    done = cli("render", "quickstart")
    argv = shlex.split(done.out.replace("\\\n", " "))
    assert argv == cli("render", "quickstart", "--json").json
    assert argv[1:4] == ["-m", "accelerate.commands.launch", "--config_file"]
    arguments = argv[argv.index("lorakit.trainers.builtin") + 1 :]
    parsed = Catalogue.load().parser().parse_args(arguments)
    assert parsed.network_dim == 8
    assert parsed.output_dir == str(workspace.root / "output" / "quickstart")


def test_the_launch_config_is_named_by_its_content(workspace: Workspace, cli: Cli) -> None:
    first = Path(cli("render", "quickstart", "--json").json[4])
    again = Path(cli("render", "quickstart", "--json", "--set", "network.dim=4").json[4])
    other = Path(cli("render", "quickstart", "--json", "--set", "precision.mixed=bf16").json[4])
    assert first == again != other
    assert first.parent == workspace.private / "accelerate"
    assert "mixed_precision: " in first.read_text()


def test_a_drawn_seed_is_told(workspace: Workspace, cli: Cli) -> None:
    done = cli("render", "quickstart", "--set", "seed=")
    (seed,) = re.findall(r"--seed (\d+)", done.out)
    assert done.err.startswith(f"look  seed {seed} was drawn")


def test_what_cannot_be_baked_is_not_rendered(workspace: Workspace, cli: Cli) -> None:
    assert cli("render", "quickstart", BROKEN, code=5).out == ""


@pytest.mark.parametrize("name", ["a b", "--x", "q'uo\"te", "花見", "[red]", "$(touch x)", "a;b"])
def test_names_that_try_hard(name: str, workspace: Workspace, cli: Cli) -> None:
    given = f"--set=name={json.dumps(name, ensure_ascii=False)}"
    assert cli("plan", "quickstart", given).out.startswith(f"{name} · ")
    argv = shlex.split(cli("render", "quickstart", given).out.replace("\\\n", " "))
    assert argv == cli("render", "quickstart", given, "--json").json


def test_a_long_scan_shows_a_bar_only_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    from lorakit.cli.presets import scan_bar

    with scan_bar() as progress:
        assert progress is None
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("lorakit.cli.presets.PATIENCE_SECONDS", -1.0)
    with scan_bar() as progress:
        assert progress is not None
        progress(1, 2)
    assert screen.console(err=True).is_terminal
