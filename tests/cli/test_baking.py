"""`lorakit bake`, `watch`, `stop`, `sweep`, `compare` as they are typed; the training itself is made up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lorakit.archive.run import Run
from lorakit.errors import ModelFileError
from lorakit.preset.files import ResolvedPreset
from lorakit.workspace import Workspace
from tests.bench_models import bench_checkpoint
from tests.cli.made_runs import OUT_OF_MEMORY, THEN, make_run
from tests.cli.running import Cli, golden
from tests.cli.test_view import start, step

STOPPED = {"status": "stopped", "reason": "stopped-by-user", "message": "stopped by the user at 9 steps", "steps": 9}


class Oven:
    """Stands in for the training: what is asked is written down, and ended as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[ResolvedPreset, dict[str, Any]]] = []
        self.ends: list[Any] = []

    def __call__(
        self,
        resolved: ResolvedPreset,
        workspace: Workspace,
        *,
        on_update: Callable[[Run, Sequence[dict[str, Any]]], None] | None = None,
        **more: Any,
    ) -> Run:
        self.asked.append((resolved, more))
        if "on_prepare" in more:
            more["on_prepare"]("hash", 3_500_000_000, 7_000_000_000)
        ended = self.ends.pop(0) if self.ends else {}
        if isinstance(ended, BaseException):
            raise ended
        preset = resolved.preset
        run = make_run(
            workspace.runs,
            preset.name,
            ended=ended,
            lineage=more.get("lineage"),
            now=THEN + len(self.asked) * 60,
            unet_lr=str(preset.optim.unet_lr),
            te_lr=json.dumps(preset.optim.te_lr.plain()),
        )
        if on_update is not None:
            on_update(run, ())
            on_update(run, [start(), step(1), {"type": "stop", "level": 1}, step(343)])
        return run


@pytest.fixture
def oven(monkeypatch: pytest.MonkeyPatch) -> Oven:
    made = Oven()
    monkeypatch.setattr("lorakit.bake.bake.bake", made)
    return made


@pytest.fixture
def model(workspace: Workspace) -> Path:
    (workspace.root / "models").mkdir()
    target = workspace.root / "models" / "bench-sdxl.safetensors"
    target.symlink_to(bench_checkpoint())
    return target


def test_bake(workspace: Workspace, oven: Oven, cli: Cli) -> None:
    out = cli("bake", "quickstart", "--set", "network.dim=4").out
    (resolved, more), *_ = oven.asked
    assert resolved.preset.network.dim == 4
    assert more["argv"][0] == "lorakit"
    assert "step 1/343" in out
    assert "stopping after this step" in out
    assert "✓ quickstart_" in out
    assert out.splitlines()[-1].lstrip().startswith("next")


def test_long_preparations_are_shown(
    workspace: Workspace, oven: Oven, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "fingerprinting" not in cli("bake", "quickstart").out
    monkeypatch.setattr("lorakit.cli.presets.PATIENCE_SECONDS", -1.0)
    assert "fingerprinting images and models  50/100\n" in cli("bake", "quickstart").out


@pytest.mark.parametrize(("ended", "code", "mark"), [(OUT_OF_MEMORY, 10, "✗"), (STOPPED, 130, "■")])
def test_the_exit_code_tells_how_it_ended(
    ended: Any, code: int, mark: str, workspace: Workspace, oven: Oven, cli: Cli
) -> None:
    oven.ends = [ended, ended]
    assert f"\n{mark} quickstart_" in cli("bake", "quickstart", code=code).out
    done = cli("bake", "quickstart", "--json", code=code)
    assert done.json["status"] == ended["status"]
    assert "step 1/343" in done.err  # the view is for people; stdout is for the JSON alone


def test_what_keeps_a_bake_from_starting_is_an_error(workspace: Workspace, oven: Oven, cli: Cli) -> None:
    oven.ends = [ModelFileError("base.model is missing", todo="put it there")]
    done = cli("bake", "quickstart", code=7)
    assert done.err == "error  base.model is missing\n  put it there\n"
    assert done.out == ""


def test_warnings_are_shown_before_the_bake(workspace: Workspace, oven: Oven, cli: Cli) -> None:
    warned = cli("check", "quickstart", "--set", "loss.huber_c=0.3", "--json").json["findings"]
    if warned:
        out = cli("bake", "quickstart", "--set", "loss.huber_c=0.3").out
        assert out.startswith(f"warn {warned[0]['code']}")


def test_detached(workspace: Workspace, oven: Oven, cli: Cli) -> None:
    out = cli("bake", "quickstart", "--detach").out
    assert oven.asked[0][1]["detach"] is True
    assert "lorakit watch " in out
    assert "lorakit stop " in out


def test_stop_and_watch(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(workspace.runs)
    asked: list[tuple[str, int]] = []
    assert "has ended" in cli("stop", code=9).err
    monkeypatch.setattr("lorakit.bake.bake.request_stop", lambda run, level, within: asked.append((run.id, level)))
    assert "stopping after this step" in cli("stop", "--no-wait").out
    cli("stop", run.short, "--now", "--no-wait")
    assert cli("stop", run.short, "--kill", "--no-wait", "--json").json == {"id": run.id, "level": 3}
    assert '"30m"' in cli("stop", "--within", "ten", code=2).err
    assert asked == [(run.id, 1), (run.id, 2), (run.id, 3)]
    assert cli("watch").out.startswith("✓ hifumi_")


def test_looking_away_from_a_run_is_no_error(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(workspace.runs)
    run.attempt(1).ended.unlink()
    monkeypatch.setattr("lorakit.archive.records.is_locked", lambda path: True)

    def follow(run: Run, on_update: Callable[[Run, Sequence[dict[str, Any]]], None], **_: Any) -> None:
        on_update(run, [start(), step(1)])
        raise KeyboardInterrupt

    monkeypatch.setattr("lorakit.bake.bake.follow", follow)
    out = cli("watch").out
    assert "step 1/343" in out
    assert "▸ hifumi_" in out.splitlines()[-1]


def test_sweep(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    line = ("sweep", "quickstart", "--unet-lr", "1e-4,2e-4", "--te-lr", "0,5e-5")
    oven.ends = [{}, OUT_OF_MEMORY, {}, ModelFileError("gone", todo="find it")]
    done = cli(*line, code=10)
    assert [resolved.preset.optim.unet_lr for resolved, _ in oven.asked] == [1e-4, 1e-4, 2e-4, 2e-4]
    assert "trial 2/4  unet 1e-4  te 5e-5" in done.out
    assert "2 × 2 · 2 of 4 done" in done.out
    assert done.out.count("✗ failed") == 2
    assert "error  gone\n  find it" in done.out
    again = cli(*line)  # what is done is skipped, what failed is tried again
    assert len(oven.asked) == 6
    assert again.out.count("✓ done before") == 2
    assert "4 of 4 done, 2 of them before" in again.out
    table = again.out[again.out.index("4 of 4 done") :].splitlines()
    short = [line.split()[0] for line in table if "✓" in line and "quickstart" not in line]
    assert again.out.splitlines()[-1].endswith(f"lorakit compare {' '.join(short)}")
    assert "optim.te_lr" in cli("compare", *short).out


def test_sweep_stopped(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    oven.ends = [{}, STOPPED]
    done = cli("sweep", "quickstart", "--dim", "2,4,8", "--json", code=130)
    assert [trial["outcome"] for trial in done.json["trials"]] == ["baked", "stopped", "not started"]
    assert len(oven.asked) == 2


def test_sweep_says_which_preset_it_takes(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    assert "no preset was named" in cli("sweep", "--dim", "2,4", code=4).err
    quickstart = (workspace.presets / "quickstart.toml").read_text()
    (workspace.presets / "default.toml").write_text(quickstart.replace('name = "quickstart"', 'name = "mine"', 1))
    done = cli("sweep", "--alpha", "1,dim/2")
    assert done.out.startswith("preset  presets/default.toml\n")
    assert [resolved.preset.name for resolved, _ in oven.asked] == ["mine-alpha1", "mine-alphadim+2"]


def test_sweep_dry_run_bakes_nothing(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    line = ("sweep", "quickstart", "--set", "seed=", "--set", "optim.unet_lr=1e-4,2e-4", "--dry-run")
    out = cli(*line).out
    assert oven.asked == []
    assert "2 of 2 to bake" in out
    found = cli(*line, "--json").json
    assert [trial["point"]["optim.unet_lr"] for trial in found["trials"]] == ["1e-4", "2e-4"]
    assert found["trials"][0]["done"] is None


def test_a_sweep_in_a_file(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    (workspace.presets / "grid.toml").write_text('preset = "quickstart"\n[axes]\ndim = [2, 4]\n[set]\nseed = 5\n')
    cli("sweep", "grid")
    assert [(one.preset.network.dim, one.preset.seed) for one, _ in oven.asked] == [(2, 5), (4, 5)]
    cli("sweep", "grid", "--dim", "8,16")
    assert [one.preset.network.dim for one, _ in oven.asked] == [2, 4, 8, 16]


def test_a_sweep_is_looked_at(workspace: Workspace, model: Path, oven: Oven, cli: Cli) -> None:
    oven.ends = [{"validation": 0.2}, {"validation": 0.1}, OUT_OF_MEMORY, {"validation": 0.4}]
    cli("sweep", "quickstart", "--unet-lr", "1e-4,2e-4", "--te-lr", "0,5e-5", code=10)
    status = cli("sweep", "status").out
    assert status.count("✓ done") == 3
    assert "1 failed" in status
    report = cli("sweep", "report").out
    golden(
        "sweep_report.txt", re.sub(r"\b[0-9a-f]{8}\b|\b[a-z0-9]{4}\b(?=$|  | ·)", "····", report, flags=re.MULTILINE)
    )
    best = cli("sweep", "report", "--json").json
    assert min(best["cells"], key=lambda cell: cell["mean"] or 9)["point"] == {
        "optim.unet_lr": "1e-4",
        "optim.te_lr": "5e-5",
    }
    assert "there is no measure beauty" in cli("sweep", "report", "--by", "beauty", code=2).err
    cli("sweep", "cancel", "latest", "3")
    cli("sweep", "pause")
    told = cli("sweep", "status", "--json").json
    assert told["paused"]
    assert [trial["phase"] for trial in told["trials"]] == ["done", "done", "cancelled", "done"]
    assert "has no trial 9" in cli("sweep", "cancel", "latest", "9", code=2).err
    assert "not paused" in cli("sweep", "go").out
    assert "watch" in cli("sweep", "--help").out
    assert cli("sweep", "watch").out.count("✓ done") == 3


@pytest.mark.parametrize("words", [[], ["--unet-lr", ""], ["--set", "nonsense"], ["--where", "1 <", "--dim", "1,2"]])
def test_a_sweep_that_cannot_be_meant(words: list[str], workspace: Workspace, cli: Cli) -> None:
    assert cli("sweep", "quickstart", *words, code=2).err.startswith("error  ")


def test_compare(workspace: Workspace, cli: Cli) -> None:
    first, second = make_run(workspace.runs), make_run(workspace.runs, unet_lr="3e-4")
    assert "optim.unet_lr" in cli("compare", first.short, second.short).out
    assert json.loads(cli("compare", first.short, second.short, "--json").out)["settings"]["optim.unet_lr"] == [
        1e-4,
        3e-4,
    ]
    assert cli("compare", first.short, first.id, code=2).err.startswith("error  two or more different runs")
