"""Row 30: secrets in the environment, in arguments, and in what the trainer prints."""

from __future__ import annotations

import signal
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.archive.diagnose_log import Status
from lorakit.archive.events import EventFollower
from lorakit.archive.records import is_alive, state
from lorakit.archive.repair import repair_run
from lorakit.archive.seal import verify
from lorakit.bake.bake import follow, request_stop, start
from lorakit.errors import UsageError
from lorakit.launch.masking import Masks, mask_file
from lorakit.launch.secrets import HIDDEN, hide, is_secret_name, refuse_secrets, secret_values
from lorakit.trainers.catalogue import Catalogue
from tests.bake.runs import keeper_of, make_run, rank_of, reaped, wait_for, wait_sealed

#: By the look of them, or by the name of the variable alone.
SECRETS = {
    "HF_TOKEN": "hf_" + "aB3" * 12,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567",
    "GITHUB_TOKEN": "ghp_" + "x1Y" * 12,
    "MY_SERVICE_PASSWORD": "correct horse battery",
    "AWS_SECRET_ACCESS_KEY": "abcd/efgh+ijkl/mnop",
    "HTTPS_PROXY": "http://me:hunter2hunter2@proxy.invalid:3128",
}
VALUES = [*[*SECRETS.values()][:-1], "hunter2hunter2"]


def found_in(data: bytes) -> list[str]:
    return [value for value in VALUES if value.encode() in data]


@pytest.mark.usefixtures("quick")
def test_row_30_no_secret_is_in_a_run_folder_or_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trainer prints its whole environment, as some do when they fail."""
    from lorakit.cli.main import main

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "lorakit.toml").touch()
    run = make_run(tmp_path / "runs", "--steps", "3", "--fault", "environment")
    start(run)
    follow(run)
    assert (state(run).status, state(run).sealed) == (Status.OK, True)
    log = run.attempt(1).log.read_bytes()
    assert b"HF_TOKEN" in log, "the trainer had it, and printed it"
    assert HIDDEN.encode() in log
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert {str(path): found for path in files if (found := found_in(path.read_bytes()))} == {}
    assert verify(run) == ()
    assert main(["-C", str(tmp_path), "export", run.short, "-o", str(tmp_path / "a.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        assert [name for name in bundle.namelist() if found_in(bundle.read(name))] == []
    for line in (["ls", "--json"], ["show"], ["logs"]):
        assert main(["-C", str(tmp_path), *line]) == 0
        told = capsys.readouterr()
        assert not found_in((told.out + told.err).encode())


@pytest.mark.parametrize(
    "words",
    [
        ["--my_api_key", "x"], ["--service-token=x"], ["wandb_api_key = 'x'"], ["--x", SECRETS["HF_TOKEN"]], ["--x", SECRETS["GITHUB_TOKEN"]],
        ["--x", "glpat-" + "a1" * 12], ["--x", "eyJ" + "a" * 20 + "." + "b" * 20 + "." + "c" * 20], ["--x=correct horse battery"],
        ["--x", SECRETS["HTTPS_PROXY"]],
    ],
)  # fmt: skip
def test_row_30_a_line_with_a_secret_is_refused_without_repeating_it(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_secrets(words, environ=SECRETS)
    assert not found_in(f"{caught.value.what} {caught.value.why} {caught.value.todo}".encode())


def test_row_30_no_option_of_the_trainer_is_a_secret_but_two() -> None:
    options = [word for action in Catalogue.load().parser()._actions for word in action.option_strings]
    assert {word for word in options if is_secret_name(word)} == {"--wandb_api_key", "--huggingface_token"}


@given(st.lists(st.sampled_from([*VALUES, "words", "\n", "\r", "é", "花", " = "]), max_size=12).map("".join))
def test_row_30_nothing_is_left_and_nothing_else_is_lost(text: str) -> None:
    values = secret_values({**SECRETS, "OTHER_TOKEN": "hunter2hunter2"})
    clean = hide(text, values)
    assert not found_in(clean.encode())
    assert clean.count("words") == text.count("words")


def test_row_30_a_file_is_cleaned_in_bounded_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = f"step: token {SECRETS['HF_TOKEN']} end\r".encode()
    path.write_bytes(line * 30_000)
    assert mask_file(path, Masks())
    hidden = HIDDEN.ljust(len(SECRETS["HF_TOKEN"]), "*").encode()
    assert path.read_bytes() == line.replace(SECRETS["HF_TOKEN"].encode(), hidden) * 30_000
    changed = path.stat().st_mtime_ns
    assert not mask_file(path, Masks())
    assert path.stat().st_mtime_ns == changed, "a clean file is left as it is"
    assert not mask_file(tmp_path / "none", Masks())


@pytest.mark.usefixtures("quick")
def test_row_30_a_printed_secret_is_covered_while_the_trainer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in two writes; whole lines and offsets stay as they were, and the event file stays readable."""
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    run = make_run(tmp_path, "--steps", "400", "--fault", "half-secret")
    with reaped(run):
        start(run)
        attempt = run.attempt(1)
        events = attempt.events / "events.out.tfevents.1"
        hidden = HIDDEN.ljust(len(SECRETS["HF_TOKEN"]), "*")
        wait_for(lambda: f"whole {hidden}; half {hidden} and on\n".encode() in attempt.log.read_bytes())
        wait_for(lambda: events.exists() and b"<secret>*" in events.read_bytes())
        wait_for(lambda: b"<secret>*" in attempt.progress.read_bytes())
        assert state(run).status is Status.RUNNING
        for path in (attempt.log, attempt.progress, events):
            assert b"hf_" not in path.read_bytes(), path.name
        follower = EventFollower(events)
        assert (follower.poll(), follower.damaged, follower.broken) == ([], 0, False), "its checksum is right"
        request_stop(run, 3)
        wait_sealed(run)
    assert verify(run) == ()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("victim", ["keeper", "trainer"])
def test_row_30_killed_in_the_middle_of_a_secret(victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half of it is all there is. What the keeper has not covered, repair covers before the seal."""
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    run = make_run(tmp_path, "--steps", "400", "--fault", "half-secret-hang")
    with reaped(run):
        start(run)
        attempt = run.attempt(1)
        wait_for(lambda: b"; half " in attempt.log.read_bytes())
        who = keeper_of(run) if victim == "keeper" else rank_of(run)
        who.kill(signal.SIGKILL)
        wait_for(lambda: not is_alive(attempt))
        if victim == "keeper":  # as if it had been killed before it came to look
            with open(attempt.log, "ab") as log:
                log.write(f" once more {SECRETS['HF_TOKEN']}, a half {SECRETS['HF_TOKEN'][:20]}".encode())
            with open(attempt.events / "events.out.tfevents.1", "ab") as file:
                file.write(b"torn " + SECRETS["HF_TOKEN"].encode())
            assert [action.kind for action in repair_run(run)][:2] == ["ended", "sealed"]
    wait_sealed(run)
    halves = [SECRETS["HF_TOKEN"][:16].encode(), SECRETS["HF_TOKEN"].encode()]
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path.name for path in files if any(half in path.read_bytes() for half in halves)] == []
    assert verify(run) == ()
