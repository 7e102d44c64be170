"""The same folder in nine trainers: every number of the table, on a folder that is made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lorakit.errors import UsageError
from lorakit.interop.counting import Row, chosen, table
from lorakit.plan import plan
from lorakit.preset.files import load_text
from lorakit.workspace import Workspace
from tests.cli.running import Cli

#: Suffix, how many, and how they fall into the buckets: square, tall, wide.
FILES = (
    ("jpg", (25, 11, 4)), ("png", (7, 3, 2)), ("jpeg", (2, 1, 1)), ("bmp", (1, 0, 0)), ("JPG", (4, 2, 0)), ("Png", (1, 1, 0)),
    ("gif", (2, 0, 0)), ("sub/png", (5, 0, 0)),
)  # fmt: skip
SHAPES = ((64, 64), (48, 80), (80, 48))
PRESET = """
name = "toy"
[base]
model = "m.safetensors"
[dataset]
path = "set"
resolution = 256
bucket_min = 64
[network]
dim = 16
alpha = 8
[optim]
unet_lr = 1e-4
te_lr = 0
warmup = "10%"
[length]
epochs = 7
batch_size = 4
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    folder = root / "set" / "3_x"
    (folder / "sub").mkdir(parents=True)
    for suffix, counts in FILES:
        for shape, (size, count) in enumerate(zip(SHAPES, counts, strict=True)):
            for number in range(count):
                home, _, bare = f"{suffix}".rpartition("/")
                kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(bare.lower(), bare.upper())
                Image.new("RGB", size).save(folder / home / f"{bare}{shape}{number}.{bare}", kind)
    (root / "lorakit.toml").write_text("")
    (root / "toy.toml").write_text(PRESET)
    return root


def rows(root: Path, names: str = "all", *, sets: tuple[str, ...] = ()) -> dict[str, Row]:
    preset = load_text(PRESET, root / "toy.toml", sets).preset
    planned = plan(preset, Workspace(root))
    return {row.name: row for row in table(preset, planned, chosen(names))}


def test_the_table_of_a_toy_folder(toy: Path) -> None:
    found = {
        name: (row.images, row.items, row.steps, row.warmup_told, row.warmup, row.runs)
        for name, row in rows(toy).items()
    }
    assert found == {
        "legacy-ps1": (72, 216, 378, "", 38, 378),
        "anon-1337": (60, 180, 315, "", 32, 343),
        "easy-training-2023": (67, 201, 351, "", 35, 343),
        "easy-training": (57, 171, 315, "", 32, 343),
        "kohya-gui-2023": (56, 168, 294, "", 29, 294),
        "kohya-gui": (64, 192, 336, "ratio 0.1", 33, 336),
        "kohya-gui-untouched": (64, 192, None, "ratio 0.1", 160, 1600),
        "sd-scripts": (63, 189, 343, "", 34, 343),
        "onetrainer": (65, 195, 336, "", 33, 336),
    }
    assert rows(toy)["legacy-ps1"].runs_epochs == 7.7


def test_differences_have_causes(toy: Path) -> None:
    found = rows(toy)
    assert "counts 2 .Png, 2 .gif, 5 in sub-folders" in found["legacy-ps1"].causes
    assert "does not see 6 .JPG" in found["easy-training"].causes
    assert "counts 2 .Png" in found["kohya-gui"].causes
    assert "does not see 1 .bmp" in found["kohya-gui"].causes
    assert found["sd-scripts"].causes == ()


def test_rates_are_those_of_a_weight(toy: Path) -> None:
    found = rows(toy)
    assert found["sd-scripts"].unet == pytest.approx(5e-5)
    assert found["sd-scripts"].te == 0
    # A rate of 0 is dropped there, and the text encoders train at learning_rate.
    assert found["easy-training"].te == pytest.approx(5e-5)
    pair = rows(toy, "sd-scripts", sets=("optim.te_lr=[2e-5, 1e-5]",))["sd-scripts"]
    assert pair.te == pytest.approx(1e-5)
    assert pair.causes == ("without the probe gives both text encoders the first rate",)


def test_steps_that_are_asked_for_are_counted_by_nobody(toy: Path) -> None:
    found = rows(toy, "kohya-gui,easy-training", sets=("length.steps=100",))
    assert {row.runs for row in found.values()} == {100}
    assert found["kohya-gui"].warmup == 10


def test_the_screen(toy: Path, cli: Cli) -> None:
    done = cli("-C", str(toy), "plan", str(toy / "toy.toml"), "--as", "kohya-gui,sd-scripts")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "kohya-gui 64 192 336 ratio 0.1 → 33 336 = 6.9 epochs 5e-5 –" in lines
    assert "sd-scripts 63 189 343 34 343 5e-5 –" in lines
    made = cli("-C", str(toy), "plan", str(toy / "toy.toml"), "--as", "legacy-ps1", "--json")
    assert json.loads(made.out)[0]["runs"] == 378
    assert "no trainer to compare with" in cli("-C", str(toy), "plan", str(toy / "toy.toml"), "--as", "x", code=2).err


def test_an_unknown_trainer_and_a_dataset_toml_are_refused(toy: Path) -> None:
    with pytest.raises(UsageError, match="no trainer"):
        chosen("kohya")
    with pytest.raises(UsageError):
        chosen(",")


@pytest.fixture
def with_reg(toy: Path, tmp_path: Path) -> Path:
    """The toy folder with twenty regularisation pictures, repeated twice."""
    (tmp_path / "set").symlink_to(toy / "set")
    for number in range(20):
        picture = tmp_path / "reg" / "2_thing" / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SHAPES[0]).save(picture)
    (tmp_path / "lorakit.toml").write_text("")
    return tmp_path


def test_regularisation_pictures_are_doubled_counted_or_left_out(toy: Path, with_reg: Path) -> None:
    plain = rows(toy)
    reg = rows(with_reg, sets=('dataset.reg_path="reg"',))
    for name in ("anon-1337", "kohya-gui"):  # they double the estimate as soon as there is such a folder
        assert reg[name].steps == 2 * (plain[name].steps or 0)
    for name in ("legacy-ps1", "easy-training-2023", "kohya-gui-2023"):  # they know nothing of it
        assert reg[name].steps == plain[name].steps
    # Subsets like any other: 40 more items in the square bucket, in batches of 4.
    assert reg["easy-training"].steps == (plain["easy-training"].steps or 0) + 7 * 10
    # sd-scripts fills the epoch up to as many examples as the 189 of training: 40 of them are 10 batches, repeated.
    assert reg["sd-scripts"].runs > plain["sd-scripts"].runs
    assert reg["anon-1337"].runs == reg["sd-scripts"].runs


def test_a_row_that_is_approximate_says_why(toy: Path) -> None:
    row = rows(toy, "onetrainer")["onetrainer"]
    assert "approximate" in row.title
    assert any("concepts.json" in cause and "buckets" in cause for cause in row.causes)
