"""The shim alone, without accelerate: it tells the truth about its child and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.launch.accelerate import SHIM
from lorakit.launch.processes import COOKIE_ENV, ProcessId, is_locked, processes_with_cookie, wait_gone


def launch(attempt: Path, program: str, *, rank: int = 0) -> subprocess.Popen[bytes]:
    script = attempt / "program.py"
    script.write_text(program)
    env = {**os.environ, "LORAKIT_ATTEMPT": str(attempt), "RANK": str(rank), COOKIE_ENV: str(attempt)}
    # -S -E: it must run without any package installed.
    return subprocess.Popen([sys.executable, "-S", "-E", str(SHIM), str(script)], env=env, stderr=subprocess.DEVNULL)


def exit_record(attempt: Path, rank: int = 0) -> dict[str, object]:
    value: dict[str, object] = json.loads((attempt / "ranks" / f"exit-{rank}.json").read_text())
    return value


def wait_file(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("program", "code", "number"),
    [
        ("pass", 0, None),
        ("import sys; sys.exit(3)", 3, None),
        ("import os; os.kill(os.getpid(), 9)", None, 9),
        ("import os; os.kill(os.getpid(), 15)", None, 15),
        ("import os; os.abort()", None, signal.SIGABRT),
        ("raise SystemExit(255)", 255, None),
    ],
)
def test_the_true_end_is_recorded_and_repeated(
    tmp_path: Path, program: str, code: int | None, number: int | None
) -> None:
    shim = launch(tmp_path, program, rank=3)
    assert shim.wait() == (code if number is None else -number)
    record = exit_record(tmp_path, rank=3)
    assert (record["code"], record["signal"], record["rank"]) == (code, number, 3)
    assert sorted(path.name for path in (tmp_path / "ranks").iterdir()) == ["exit-3.json", "rank-3.json"]
    assert not is_locked(tmp_path / "alive.lock")


def test_modules_and_hostile_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text("import json, sys; json.dump(sys.argv[1:], open('said.json', 'w'))")
    hostile = ["a b", "it's", '"', "new\nline", "--x", "-m", "--", "ünïcode", "$(rm)", ""]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, str(SHIM), "-m", "say", *hostile], cwd=tmp_path, env=env, check=True)
    assert json.loads((tmp_path / "said.json").read_text()) == hostile


def test_a_signal_reaches_the_trainer_once(tmp_path: Path) -> None:
    program = """
import pathlib, signal, sys, time
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
pathlib.Path(sys.argv[0]).with_name("ready").touch()
deadline = time.monotonic() + 20
while not seen and time.monotonic() < deadline: time.sleep(0.01)
time.sleep(0.3)
sys.exit(40 + len(seen))
"""
    shim = launch(tmp_path, program)
    wait_file(tmp_path / "ready")
    shim.send_signal(signal.SIGTERM)
    shim.send_signal(signal.SIGTERM)
    assert shim.wait() == 41


SLEEP = "import pathlib, sys, time; pathlib.Path(sys.argv[0]).with_name('ready').touch(); time.sleep(60)"


def test_the_trainer_dies_with_its_shim(tmp_path: Path) -> None:
    shim = launch(tmp_path, SLEEP)
    wait_file(tmp_path / "ready")
    trainer = ProcessId.from_json(json.loads((tmp_path / "ranks" / "rank-0.json").read_text()))
    assert trainer is not None
    assert trainer.is_alive()
    assert is_locked(tmp_path / "alive.lock")
    shim.kill()
    shim.wait()
    assert wait_gone((trainer,), 10) == ()
    assert not is_locked(tmp_path / "alive.lock")
    assert not (tmp_path / "ranks" / "exit-0.json").exists(), "nobody was left to tell"


@pytest.mark.parametrize("deaf", [False, True])
def test_the_trainer_ends_when_the_launcher_is_killed(tmp_path: Path, deaf: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if deaf else ""
    script = tmp_path / "program.py"
    script.write_text(ignore + SLEEP)
    env = {**os.environ, "LORAKIT_ATTEMPT": str(tmp_path), COOKIE_ENV: str(tmp_path)}
    program = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    launcher = subprocess.Popen([sys.executable, "-c", program, sys.executable, str(SHIM), str(script)], env=env)
    wait_file(tmp_path / "ready")
    launcher.kill()
    launcher.wait()
    assert wait_gone(processes_with_cookie(str(tmp_path)), 20) == ()
    assert exit_record(tmp_path)["signal"] == (signal.SIGKILL if deaf else signal.SIGTERM)


def test_what_the_trainer_leaves_in_its_group_is_ended(tmp_path: Path) -> None:
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert launch(tmp_path, program).wait() == 0
    assert wait_gone(processes_with_cookie(str(tmp_path)), 10) == ()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SHIM), str(tmp_path / "none.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "none.py" in done.stderr
    bare = subprocess.run([sys.executable, str(SHIM)], capture_output=True, text=True, check=False)
    assert "usage" in bare.stderr


def test_without_an_attempt_nothing_is_written(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("raise SystemExit(5)")
    env = {key: value for key, value in os.environ.items() if not key.startswith("LORAKIT")}
    assert subprocess.run([sys.executable, str(SHIM), str(script)], cwd=tmp_path, env=env, check=False).returncode == 5
    assert list(tmp_path.iterdir()) == [script]
