"""Real drawing with the tiny model: cells that differ where they should, kept ones not drawn again, an interrupted sheet that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from lorakit.errors import ArchiveError, ModelFileError, UsageError
from lorakit.sheet import drawing
from lorakit.sheet.axes import parse_axis
from lorakit.sheet.order import Asked, Order, place_order
from lorakit.trainers.builtin.draw import Cell, batches, draw_job
from lorakit.workspace import Workspace
from tests.bench_models import bench_checkpoint
from tests.cli.running import Cli
from tests.cli.test_docs import words_of
from tests.loras import write_lora


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with the tiny model as its only one."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.safetensors").symlink_to(bench_checkpoint())
    return Workspace(tmp_path)


@pytest.fixture
def lora(tmp_path: Path) -> str:
    metadata = {"ss_sd_model_name": "tiny.safetensors", "ss_resolution": "(64, 64)"}
    return str(write_lora(tmp_path / "mine.safetensors", strength=0.3, metadata=metadata))


class Program:
    """The drawing program's work, done in this process; ``drawn`` are the pictures it made, ``stop_at`` ends it after so many."""

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.started = 0
        self.stop_at = 10_000

    def __call__(self, module: str, job: Mapping[str, Any], on_record: Callable[[dict[str, Any]], None]) -> None:
        assert module == "lorakit.trainers.builtin.draw"
        self.started += 1

        def tell(kind: str, **keys: Any) -> None:
            on_record({"type": kind, **keys})
            if kind == "cell":
                self.drawn.append(keys["out"])
                if len(self.drawn) == self.stop_at:
                    raise KeyboardInterrupt

        draw_job(json.loads(json.dumps(job)), tell)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    made = Program()
    monkeypatch.setattr(drawing, "run_helper", made)
    return made


def order_of(place: Workspace, lora: str, *, steps: int = 2, **asked: Any) -> Order:
    axes = tuple((name, parse_axis(asked.pop(name))) for name in "xyz" if name in asked)
    asked.setdefault("prompts", ("a zorp --w 64 --h 64",))
    return place_order(Asked(targets=(lora,), axes=axes, steps=steps, **asked), place)


def pixels(order: Order, *at: int) -> np.ndarray[Any, Any]:
    z, y, x = at
    cell = order.grid.cells[z][y][x]
    assert cell is not None
    return np.asarray(order.store.open(cell)).astype(int)


def test_a_sheet_is_drawn_once_and_its_four_parts_differ(
    place: Workspace, lora: str, program: Program, tmp_path: Path
) -> None:
    order = order_of(place, lora, attribution=True, x="seed=1,2")
    assert order.store.seconds(order.store.missing(order.grid)) is None
    records: list[dict[str, Any]] = []
    drawing.draw_missing(order.store, order.grid, on_record=records.append)
    assert len(program.drawn) == len(set(program.drawn)) == 8
    rows = [pixels(order, 0, y, 0) for y in range(4)]
    assert all(row.shape == (64, 64, 3) for row in rows)
    for at, row in enumerate(rows):
        assert all(np.abs(row - other).max() > 2 for other in rows[at + 1 :])
    assert np.abs(pixels(order, 0, 0, 0) - pixels(order, 0, 0, 1)).max() > 2  # another seed
    assert [record["type"] for record in records].count("cell") == 8
    assert [record for record in records if record["type"] == "progress"][-1]["done"] == 16

    # Nothing is drawn again, neither for the same sheet nor for another with the same cells.
    drawing.draw_missing(order.store, order.grid)
    other = order_of(place, lora, x="seed=2,1", y="part=both,none")
    assert other.store.missing(other.grid) == ()
    assert program.started == 1
    estimate = order.store.seconds(order.store.missing(order_of(place, lora, x="seed=3-6").grid))
    assert estimate is not None
    assert estimate > 0

    done = drawing.finish(
        order.store, order.grid, title="t", out=tmp_path / "a.png", html=tmp_path / "a.html", cells=tmp_path / "c"
    )
    assert len(done.cells) == 8
    first = (tmp_path / "a.png").read_bytes()
    drawing.finish(order.store, order.grid, title="t", out=tmp_path / "a.png", html=None)
    assert (tmp_path / "a.png").read_bytes() == first
    with Image.open(tmp_path / "a.png") as sheet:
        assert "Script: X/Y/Z plot" in sheet.text["parameters"]  # type: ignore[attr-defined]
        assert json.loads(sheet.text["lorakit"])["axes"]["x"] == ["seed 1", "seed 2"]  # type: ignore[attr-defined]
    with Image.open(tmp_path / "c" / "y2-x1.png") as cell:
        assert cell.text["parameters"].startswith("a zorp <lora:mine:0:1>\nSteps: 2, Sampler: Euler a")  # type: ignore[attr-defined]
    with Image.open(order.store.path(next(iter(order.grid)))) as kept:
        assert kept.text["parameters"].startswith("a zorp\nSteps: 2")  # type: ignore[attr-defined]


def test_the_command_draws_writes_and_says_what_it_did(
    place: Workspace, lora: str, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Cli(capsys)
    out = place.root / "new" / "sheet.png"
    line = [
        "-C",
        str(place.root),
        "sheet",
        lora,
        "-p",
        "a zorp --w 64 --h 64",
        "--steps",
        "1",
        "-x",
        "seed=1,2",
        "-o",
        str(out),
    ]
    told = cli(*line, "--json", "--cells", str(place.root / "cells")).json
    assert (told["drawn"], told["places"], told["to_draw"]) == (4, 4, 0)
    assert told["picture"] == str(out)
    assert len(told["cells"]) == 4
    assert "<table>" in Path(told["page"]).read_text(encoding="utf-8")
    assert set(told) == words_of("sheet")
    first = out.read_bytes()
    again = cli(*line, "--no-page").out
    assert "2 × 2 · nothing to draw · 4 drawn before" in again
    assert "page" not in again
    assert out.read_bytes() == first
    program.stop_at = 5
    assert (
        "1 picture still to draw" in cli(*line[:-4], "-x", "seed=1,2,3", "-o", str(out), "--batch", "1", code=130).err
    )


def test_an_interrupted_sheet_goes_on_and_is_the_same_as_one_in_one_go(
    place: Workspace, lora: str, program: Program
) -> None:
    order = order_of(place, lora, x="seed=1-5", y="weight=1", base_row=False)
    program.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        drawing.draw_missing(order.store, order.grid)
    assert len(order.store.missing(order.grid)) == 2
    before = list(program.drawn)
    program.stop_at = 10_000
    drawing.draw_missing(order.store, order.grid)
    assert len(program.drawn) == 5
    assert not set(before) & set(program.drawn[3:])
    rows = [pixels(order, 0, 0, x) for x in range(5)]
    for cell in order.grid:
        order.store.path(cell).unlink()
    drawing.draw_missing(order.store, order.grid)
    for x, row in enumerate(rows):
        assert np.array_equal(pixels(order, 0, 0, x), row)


def test_a_damaged_picture_is_drawn_again(place: Workspace, lora: str, program: Program) -> None:
    order = order_of(place, lora, y="part=none", steps=1)
    drawing.draw_missing(order.store, order.grid)
    (cell,) = order.grid
    order.store.path(cell).write_bytes(b"\x89PNG torn")
    with pytest.raises(ModelFileError, match="damaged"):
        order.store.open(cell)
    drawing.draw_missing(order.store, order.grid)
    assert order.store.open(cell).size == (64, 64)
    assert len(program.drawn) == 2


def test_batches_have_one_shape_and_the_same_cells_give_the_same() -> None:
    def cell(seed: int, steps: int = 2, lora: str | None = None, cfg: float = 3.0) -> Cell:
        weight = 1.0 if lora else 0.0
        return Cell(lora, weight, weight, "p", "", seed, "DDIM", steps, cfg, 64, 64, "", Path(f"{seed}"), 75)

    cells = [
        cell(1),
        cell(2, lora="a"),
        cell(3),
        cell(4, steps=3),
        cell(5),
        cell(6, lora="a"),
        cell(7, cfg=1.0),
        cell(8, cfg=9.0),
    ]
    found = [[one.seed for one in batch] for batch in batches(cells, 3)]
    assert found == [[7], [1, 3, 5], [8], [4], [2, 6]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler", ["DDIM", "Euler", "Heun", "DPM++ 2M", "DPM++ 2M Karras", "DPM++ 2M SDE Karras", "UniPC"]
)
def test_every_sampler_draws_the_same_again(place: Workspace, lora: str, program: Program, sampler: str) -> None:
    order = order_of(place, lora, sampler=sampler, y="weight=1", base_row=False, steps=4)
    drawing.draw_missing(order.store, order.grid)
    first = pixels(order, 0, 0, 0)
    order.store.path(next(iter(order.grid))).unlink()
    drawing.draw_missing(order.store, order.grid)
    assert np.array_equal(pixels(order, 0, 0, 0), first)


def test_another_base_is_drawn_with_a_warning(place: Workspace, tmp_path: Path) -> None:
    made = {"ss_sd_model_name": "tiny.safetensors", "ss_new_sd_model_hash": "0" * 64}
    path = write_lora(tmp_path / "other.safetensors", metadata=made)
    (warning,) = order_of(place, str(path)).warnings
    assert warning == "other was trained on tiny.safetensors, and is drawn on tiny.safetensors, which is another model"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "SD 1.5"),
        ("lora_unet_double_blocks_0_img_attn_proj", "Flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_proj", "SD 3"),
    ],
)
def test_other_architectures_are_named(place: Workspace, tmp_path: Path, key: str, told: str) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(
        {
            f"{key}.lora_down.weight": np.zeros((2, 4), np.float32),
            f"{key}.lora_up.weight": np.zeros((4, 2), np.float32),
        },
        path,
    )
    with pytest.raises(ModelFileError, match=f"is a LoRA for {told}"):
        order_of(place, str(path))


def test_missing_and_torn_files_and_unknown_bases_are_refused(place: Workspace, tmp_path: Path, lora: str) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(Path(lora).read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="torn"):
        order_of(place, str(torn))
    with pytest.raises(ModelFileError, match="gone"):
        order_of(place, str(tmp_path / "gone.safetensors"))
    with pytest.raises(UsageError, match="nothing says which base model"):
        order_of(place, str(write_lora(tmp_path / "bare.safetensors")))
    with pytest.raises(ModelFileError, match="no base model nowhere"):
        order_of(place, lora, base="nowhere")
    with pytest.raises(UsageError, match="nothing to draw"):
        order_of(place, lora, prompts=())
    with pytest.raises(ArchiveError, match="no run with a checkpoint"):
        place_order(Asked(), place)


def test_a_run_brings_its_prompts_settings_and_checkpoints(place: Workspace) -> None:
    folder = place.runs / "2026-01-01_0000_hifumi_abcd"
    (folder / "weights").mkdir(parents=True)
    (folder / "preset.toml").write_text(
        '[base]\nmodel = "models/tiny.safetensors"\nv_prediction = true\n[dataset]\nresolution = [96, 128]\n'
        '[loss]\nzero_terminal_snr = true\n[sample]\nprompts = "p.txt"\nsampler = "dpmsolver++"\n'
    )
    images = [{"path": f"{at}.png", "caption": f"caption {at}"} for at in range(9)]
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    for at in (1, 2):
        write_lora(folder / "weights" / f"hifumi-{at:06d}.safetensors", seed=at)
    write_lora(folder / "weights" / "hifumi.safetensors", metadata={"ss_epoch": "3"})
    (folder / "weights" / "hifumi-000009.safetensors").write_bytes(b"torn")

    order = place_order(Asked(), place)
    assert order.grid.y == ("base model", "epoch 1", "epoch 2", "epoch 3")
    assert order.grid.x == ("caption 0", "caption 2", "caption 4", "caption 6")
    assert (order.store.model.v_prediction, order.store.model.zero_terminal_snr) == (True, True)
    assert order.place.parent == folder / "analysis"
    assert order.warnings == (
        "hifumi abcd: hifumi-000009.safetensors is left out: " + order.warnings[0].rpartition(": ")[2],
    )
    cell = order.grid.cells[0][3][0]
    assert cell is not None
    assert (cell.width, cell.height, cell.sampler, cell.steps, cell.cfg, cell.seed) == (96, 128, "DPM++ 2M", 20, 7.0, 1)

    (place.root / "p.txt").write_text("# comment\nhifumi --n bad --w 72 --h 64 --s 3 --l 2.5 --d 8\nplain\n")
    own = place_order(Asked(), place)
    first = own.grid.cells[0][1][0]
    assert first is not None
    assert (first.prompt, first.negative, first.width, first.steps, first.cfg, first.seed) == (
        "hifumi",
        "bad",
        64,
        3,
        2.5,
        8,
    )
    said = place_order(Asked(prompts=("mine",), axes=(("y", parse_axis("epoch=2")),)), place)
    chosen = said.grid.cells[0][1][0]
    assert chosen is not None
    assert chosen.lora is not None
    assert (chosen.lora.name, chosen.negative, chosen.steps, chosen.cfg) == ("hifumi-000002", "bad", 3, 2.5)
    with pytest.raises(ModelFileError, match="no checkpoint of epoch 9"):
        place_order(Asked(axes=(("y", parse_axis("epoch=9")),)), place)
