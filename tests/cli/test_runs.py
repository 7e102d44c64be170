"""`lorakit ls`, `show`, `logs`, `verify`."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.cli import listing, run_screens, runs
from lorakit.workspace import Workspace
from tests.cli.made_runs import OUT_OF_MEMORY, THEN, make_run
from tests.cli.running import Cli, golden


@pytest.fixture
def archive(workspace: Workspace) -> Path:
    return workspace.runs


def text_of(lines: list[object], root: Path) -> str:
    return "".join(f"{getattr(line, 'plain', line)}\n" for line in lines).replace(str(root), "RUNS")


def test_ls(archive: Path, cli: Cli) -> None:
    make_run(archive, short="k3f9", tags=["good"])
    make_run(archive, short="p2xd", ended=OUT_OF_MEMORY, now=THEN + 60)
    make_run(archive, "花見 [bold]", short="m8aa", now=THEN + 120, unet_lr="2.5e-4", te_lr="5e-5", alpha="16")
    stopped = {"status": "stopped", "reason": "stopped-by-user", "message": "stopped by the user", "steps": 100}
    make_run(archive, "a\nb", short="r1c2", now=THEN + 180, ended={**stopped, "loss_first": None}, te_lr="0")
    make_run(archive, short="s9zz", now=THEN + 240, sealed=False)
    golden("ls.txt", cli("ls").out)


def test_ls_of_nothing_says_how_to_begin(archive: Path, cli: Cli) -> None:
    assert cli("ls").out == "there are no runs yet; lorakit bake PRESET makes one\n"
    assert cli("ls", "--json").json == []


def test_ls_shows_the_newest_and_counts_the_rest(archive: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SHOWN", 2)
    made = [make_run(archive, f"run{n}", now=THEN + 60 * n) for n in range(3)]
    lines = cli("ls").out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [made[2].short, made[1].short]
    assert lines[3] == "1 older: lorakit ls --all"
    assert len(cli("ls", "--all").out.splitlines()) == 4
    assert len(cli("ls", "--json").json) == 3


def test_ls_fits_a_narrow_window(archive: Path) -> None:
    run = make_run(archive, "a name that goes on and on and on and on and on and on and on")
    lines = run_screens.listing([state(run)], now=THEN, width=100)
    assert max(line.cell_len for line in lines) <= 100


def test_ls_json_has_what_the_docs_promise(archive: Path, cli: Cli) -> None:
    run = make_run(archive)
    (row,) = cli("ls", "--json").json
    assert row["id"] == run.id
    assert row["short"] == run.short
    assert (row["status"], row["steps"], row["loss_last"], row["sealed"]) == ("ok", 343, 0.104, True)


def test_show(archive: Path, cli: Cli) -> None:
    make_run(archive, short="k3f9", tags=["good", "keep"])
    golden("show.txt", cli("show", "k3").out.replace(str(archive), "RUNS"))
    assert cli("show", "--json").json["settings"]["optim.unet_lr"] == 1e-4


def test_show_tells_notes_and_lineage(archive: Path, cli: Cli) -> None:
    lineage = {"kind": "sweep", "sweep": "9c1e718e", "index": 2, "of": 4, "point": {"optim.unet_lr": "2e-4"}}
    run = make_run(archive, lineage=lineage)
    run.notes.write_text("eyes are good\nhands are not\n")
    out = cli("show").out
    assert "  sweep       9c1e718e, trial 2 of 4: optim.unet_lr=2e-4\n" in out
    assert "  notes       eyes are good\n              hands are not\n" in out


def test_show_a_failure(archive: Path, cli: Cli) -> None:
    log = b"".join(b"line %d\n" % n for n in range(30)) + b"torch.OutOfMemoryError: CUDA out of memory.\n"
    run = make_run(archive, short="p2xd", ended=OUT_OF_MEMORY, log=log)
    golden("show_failure.txt", cli("show").out.replace(str(archive), "RUNS"))
    golden("ending_failure.txt", text_of([*run_screens.ending(state(run), "presets/hifumi.toml")], archive))


def test_the_last_words_of_a_bake(archive: Path) -> None:
    run = make_run(archive, short="k3f9")
    golden("ending.txt", text_of([*run_screens.ending(state(run), "pre sets/hifumi.toml")], archive))


def test_a_stopped_bake_says_how_to_go_on(archive: Path) -> None:
    ended = {"status": "stopped", "reason": "stopped-by-user", "message": "stopped by the user at 9 steps", "steps": 9}
    lines = text_of([*run_screens.ending(state(make_run(archive, ended=ended)), "hifumi")], archive)
    assert "again       lorakit bake hifumi\n" in lines


def test_a_damaged_run_is_shown_not_hidden(archive: Path, cli: Cli) -> None:
    run = make_run(archive)
    run.request.write_text("{torn")
    run.preset.write_text("= no toml")
    assert "✗" in cli("ls").out
    assert "request.json" in cli("show").out
    assert "cannot be read" in cli("show", "--json", code=9).err


@pytest.mark.parametrize("word", ["short", "name", "id", "prefix", "latest", None])
def test_a_run_is_picked_by_any_unique_beginning(word: str | None, archive: Path, cli: Cli) -> None:
    make_run(archive, "other", now=THEN - 600)
    run = make_run(archive, "hifumi")
    words = {"short": run.short, "name": "hifumi", "id": run.id, "prefix": run.id[:13] + "1429", "latest": "latest"}
    picked = cli("show", "--json", *([] if word is None else [words[word]]), code=None)
    if word == "prefix":  # both were born on that day; the minute tells them apart
        picked = cli("show", "--json", run.id[:15])
    assert picked.json["id"] == run.id


def test_a_run_that_is_not_there_or_not_clear(archive: Path, cli: Cli) -> None:
    assert cli("show", "x", code=9).err.startswith("error  there are no runs")
    first, second = make_run(archive), make_run(archive)
    done = cli("show", "hifumi", code=9)
    assert first.short in done.err
    assert second.short in done.err
    assert cli("show", "nope", code=9).err.startswith("error  no run is called 'nope'")


def test_logs(archive: Path, cli: Cli) -> None:
    make_run(archive, log=b"one\ntwo\nthree\n")
    assert cli("logs").out == "one\ntwo\nthree\n"
    assert cli("logs", "--tail", "2").out == "two\nthree\n"
    assert cli("logs", "-n", "0").out == ""
    assert cli("logs", "--follow", "--tail", "1").out == "three\n"  # it has ended: nothing to wait for


def test_logs_that_are_not_there(archive: Path, cli: Cli) -> None:
    run = make_run(archive)
    run.attempt(1).log.unlink()
    assert cli("logs", code=9).err.startswith(f"error  {run.id} has no log yet")


@given(
    st.lists(st.sampled_from([b"", b"a", b"long line " * 9, "花".encode()]), max_size=12),
    st.booleans(),
    st.integers(0, 14),
)
def test_the_tail_is_the_last_lines(lines: list[bytes], finished: bool, count: int) -> None:
    data = b"\n".join(lines) + (b"\n" if finished and lines else b"")
    file = io.BytesIO(data)
    file.seek(runs.start_of_last(file, count, block=7))
    whole = data.splitlines(keepends=True)
    assert file.read() == b"".join(whole[max(0, len(whole) - count) :])


def test_logs_follow_until_the_run_ends(archive: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(archive, log=b"one\n")
    ended = run.attempt(1).ended
    facts = ended.read_bytes()
    ended.unlink()
    monkeypatch.setattr("lorakit.archive.records.is_locked", lambda path: not ended.exists())

    def grow() -> None:
        time.sleep(0.5)
        with run.attempt(1).log.open("ab") as log:
            log.write(b"two\n")
        time.sleep(0.5)
        ended.write_bytes(facts)

    thread = threading.Thread(target=grow)
    thread.start()
    assert cli("logs", "-f").out == "one\ntwo\n"
    thread.join()


def test_verify(archive: Path, cli: Cli) -> None:
    run = make_run(archive, short="k3f9")
    done = cli("verify")
    assert done.out.startswith("✓ hifumi_k3f9  ")
    assert done.out.endswith("all as they were sealed\n")
    assert cli("verify", "--json").json == {"id": run.id, "whole": True, "differences": []}


def test_verify_names_every_difference(archive: Path, cli: Cli) -> None:
    run = make_run(archive, short="k3f9")
    (run.weights / "lora.safetensors").write_bytes(b"y" * 1000)
    run.plan.unlink()
    (run.path / "new\nfile").write_text("x")
    done = cli("verify", code=9)
    golden("verify.txt", done.err)
    found = cli("verify", "--json", code=9).json
    assert [one["kind"] for one in found["differences"]] == ["added", "missing", "changed"]


def test_verify_of_what_was_never_sealed(archive: Path, cli: Cli) -> None:
    make_run(archive, sealed=False)
    assert "is not sealed" in cli("verify", code=9).err


def test_notes_and_tags_may_change_after_the_seal(archive: Path, cli: Cli) -> None:
    run: Run = make_run(archive)
    run.notes.write_text("a good one")
    run.tags.write_text('{"tags": ["best"]}')
    cli("verify")
    assert "best" in cli("ls").out
