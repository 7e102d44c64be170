"""The real sd-scripts is fetched, adopted, asked for its options and looked at; its transformers reads our tokenizers."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from lorakit.trainers.catalogue import Catalogue
from lorakit.trainers.sd_scripts import tokenizers
from lorakit.trainers.sd_scripts.checkout import look, make_checkout
from lorakit.trainers.sd_scripts.install import adopt
from lorakit.trainers.sd_scripts.installed import make_catalogue, read_installed
from lorakit.trainers.sd_scripts.pin import read_pin
from lorakit.trainers.sd_scripts.place import Place
from lorakit.trainers.sd_scripts.programs import Runner
from lorakit.trainers.sd_scripts.status import status
from lorakit.workspace import Workspace, find_workspace
from tests.conformance.checkout import CHECKOUT, PYTHON, needs_checkout
from tests.trainers.sd_scripts.made import Watched
from tests.trainers.sd_scripts.test_tokenizers import CAPTIONS

pytestmark = needs_checkout


def test_the_pin_is_fetched_and_its_parser_is_the_one_that_is_known(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    pin = read_pin(workspace)
    folder = workspace.vendor / "sd-scripts"
    folder.parent.mkdir()
    found = make_checkout(pin, folder, Runner(tmp_path / "log"), source=CHECKOUT)
    assert (found.commit, found.changed) == (pin.commit, ())
    assert not (folder / "docs").exists()
    installed = make_catalogue(workspace, Place(folder, Path(PYTHON), folder / "sdxl_train_network.py", named=False))
    assert installed.version == pin.tag
    assert installed.catalogue.flags == Catalogue.load().flags
    assert look(folder).changed == ()


def test_a_real_checkout_is_adopted_and_well(tmp_path: Path) -> None:
    (tmp_path / "lorakit.toml").touch()
    receipt = adopt(Workspace(tmp_path), Watched(), folder=Path(CHECKOUT), python=Path(PYTHON))
    assert receipt.complete
    assert {"torch", "accelerate"} <= set(receipt.packages)
    workspace = find_workspace(tmp_path)
    assert read_installed(workspace) is not None
    found = {check.name: check for check in status(workspace)}
    assert not [check for check in found.values() if check.state == "problem"]
    assert {"checkout", "python", "torch", "accelerate", "bitsandbytes", "xformers", "tokenizers", "disk"} <= set(found)


READER = """
import json, sys
from transformers import CLIPTokenizer
folders, captions = json.loads(sys.argv[1]), json.loads(sys.stdin.read())
read = [CLIPTokenizer.from_pretrained(folder, local_files_only=True) for folder in folders]
ids = [[list(one(caption, add_special_tokens=False).input_ids) for one in read] for caption in captions]
print(json.dumps({"ids": ids, "pads": [one.pad_token_id for one in read], "lengths": [one.model_max_length for one in read]}))
"""


def test_its_transformers_reads_our_tokenizers_as_we_do(tmp_path: Path) -> None:
    pytest.importorskip("instant_clip_tokenizer")
    from lorakit.trainers.builtin.tokenizers import load_tokenizers

    cache = tmp_path / "cache"
    merges = tokenizers.merges_of_package()
    tokenizers.fill(cache, merges)
    rng = random.Random(1)
    # Words of the vocabulary that no repair of text (ftfy) changes: plain letters.
    words = [
        word for merge in merges if (word := merge.replace(" ", "").replace("</w>", "")).isascii() and word.isalpha()
    ]
    captions = [*CAPTIONS, *(", ".join(rng.sample(words, rng.randint(1, 40))) for _ in range(1000))]
    folders = json.dumps([str(cache / name) for name in tokenizers.FOLDERS])
    done = subprocess.run(
        [PYTHON, "-c", READER, folders],
        input=json.dumps(captions), cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["pads"] == [49407, 0]
    assert theirs["lengths"] == [77, 77]
    ours = load_tokenizers()
    for caption, (first, second) in zip(captions, theirs["ids"], strict=True):
        assert first == second == ours.first.words(caption), caption
