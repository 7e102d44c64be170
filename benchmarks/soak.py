"""The soak: many short bakes, random processes of them killed at random moments, and then: is everything right that should be?

    python benchmarks/soak.py --bakes 200 --seed 1
    python benchmarks/soak.py --bakes 20 --trainer builtin --minutes 5

Each attempt of a bake gets, by the seed, a victim (its keeper, launcher, shim, trainer, the command that started it, a graceful stop, or
nobody) and a moment: some time after its birth, or a step of the training. Bakes that did not finish are resumed, and the resumed ones
are struck too. Afterwards every run must be what the archive says it is, `verify` clean, nothing of it alive, no temporary left, and its
weights those of all its steps, none lost and none done twice. With ``--folder`` a soak that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lorakit.archive.diagnose_log import Status
from lorakit.archive.records import is_alive, state
from lorakit.archive.repair import repair_archive
from lorakit.archive.run import Run, list_runs, read_record
from lorakit.archive.seal import verify
from lorakit.archive.states import checkpoints, training_states
from lorakit.atomic import TEMP_MARK
from lorakit.launch.processes import ProcessId, processes_with_cookie

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.small_run import small_pictures, small_preset  # noqa: E402 (this repository's own)

VICTIMS = ("keeper", "launcher", "shim", "trainer", "command", "stop", "nobody")
STEPS = 24
#: Attempts of a bake that may be struck; the one after them is left to finish.
STRUCK = 3


def main() -> None:
    """Soak and print the figures as JSON; exit code 1 when anything is not as it should be."""
    asked = parse()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="lorakit-soak-"))
    environment = workspace(folder, asked.trainer)
    if asked.quick_launcher:
        environment["PYTHONPATH"] = str(asked.quick_launcher.resolve())
    done = {entry["bake"]: entry for entry in read_done(folder)}
    began = time.monotonic()

    def turn(number: int) -> None:
        """One bake, written down when it is over."""
        if number in done or time.monotonic() - began > asked.minutes * 60:
            return
        entry = one(folder, environment, number, asked)
        with open(folder / "done.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    with ThreadPoolExecutor(max_workers=asked.at_once) as pool:
        for future in [pool.submit(turn, number) for number in range(asked.bakes)]:
            future.result()
    figures = reckon(folder, asked)
    print(json.dumps(figures | {"seconds": round(time.monotonic() - began)}, indent=2))
    if figures["wrong"]:
        sys.exit(f"kept for a look: {folder}")
    if not asked.folder:
        shutil.rmtree(folder)


def read_done(folder: Path) -> list[dict[str, Any]]:
    """The bakes that are over, with what was done to them."""
    path = folder / "done.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def reckon(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Repair, judge every run, and sum up."""
    actions = Counter(action.kind for action in repair_archive(folder / "runs"))
    again = [action for action in repair_archive(folder / "runs") if action.done]
    runs = list_runs(folder / "runs")
    wrong = [line for run in runs for line in judged(run, asked.trainer)]
    wrong += [f"repair does it again: {action.kind} {action.what}" for action in again]
    wrong += [f"left over: {path}" for path in folder.rglob("*") if TEMP_MARK in path.name or ".birth-" in path.name]
    found = [state(run) for run in runs]
    strikes = [strike for entry in read_done(folder) for strike in entry["strikes"]]
    return {
        "trainer": asked.trainer,
        "seed": asked.seed,
        "bakes": len(found),
        "attempts": sum(run.attempt for run in found),
        "struck": dict(sorted(Counter(strike["victim"] for strike in strikes if strike["hit"]).items())),
        "struck after a state was there": sum(strike["hit"] and strike["states"] > 0 for strike in strikes),
        "struck while resumed": sum(strike["hit"] and strike["attempt"] > 1 for strike in strikes),
        "came too late": sum(not strike["hit"] and strike["victim"] != "nobody" for strike in strikes),
        "states": dict(Counter(run.status.value for run in found)),
        "struck and resumed to the end": sum(run.status is Status.OK and run.attempt > 1 for run in found),
        "resumed after a state": resumed_from(runs),
        "lost": sum(any(entry["lost"] for entry in read_done(folder) if entry["run"] == run.id) for run in runs),
        "repaired": dict(sorted(actions.items())),
        "wrong": wrong,
    }


def resumed_from(runs: Sequence[Run]) -> int:
    """Attempts that went on from a state."""
    return sum(run.attempt(number).resumed.exists() for run in runs for number in range(2, run.last_attempt.number + 1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Many short bakes with random kills.")
    parser.add_argument("--bakes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trainer", choices=("small", "builtin"), default="small")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further bake after so long")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--within", type=float, default=3.0, help="seconds from an attempt's birth to its strike")
    parser.add_argument("--folder", type=Path, default=None, help="keep everything here, and go on with what is there")
    parser.add_argument("--quick-launcher", type=Path, default=None, help="a folder with a stand-in for accelerate")
    return parser.parse_args()


def workspace(folder: Path, trainer: str) -> dict[str, str]:
    """A workspace for the bakes; gives the environment to bake in."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SOAK_SECONDS": "0.08"}
    if (folder / "presets" / "soak.toml").exists():
        return environment
    small_pictures(folder / "things" / "1_thing", 4)
    write = [sys.executable, "-m", "lorakit.bench_model", "write", str(folder / "base.safetensors"), "--size", "tiny"]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = ""
    if trainer == "small":
        (folder / "checkout").mkdir(exist_ok=True)
        shutil.copy(ROOT / "benchmarks" / "soak_trainer.py", folder / "checkout" / "sdxl_train_network.py")
        lines = f'[sd_scripts]\npath = "{folder / "checkout"}"\npython = "{sys.executable}"\n'
    (folder / "lorakit.toml").write_text(lines, encoding="utf-8")
    kind = "sd-scripts" if trainer == "small" else "builtin"
    preset = small_preset("soak", steps=STEPS, kind=kind, schedule="cosine", states_every=2)
    (folder / "presets").mkdir(exist_ok=True)
    (folder / "presets" / "soak.toml").write_text(preset, encoding="utf-8")
    return environment


def one(folder: Path, environment: dict[str, str], number: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One bake with its strikes, resumed until it has finished: what was done to it."""
    name = f"soak{number:04d}"
    entry: dict[str, Any] = {"bake": number, "run": "", "strikes": [], "lost": ""}
    run = next(iter(named(folder, name)), None)  # of a soak that was ended in the middle of it
    first = 1 if run is None else run.last_attempt.number + 1
    for attempt in range(first, max(first, STRUCK + 1) + 1):
        dice = random.Random(f"{asked.seed}-{number}-{attempt}")
        victim = dice.choice(VICTIMS) if attempt <= STRUCK else "nobody"
        moment = (dice.uniform(0.0, asked.within), None) if dice.random() < 0.4 else (0.0, dice.randint(1, STEPS))
        line = [sys.executable, "-m", "lorakit", "-C", str(folder)]
        line += ["bake", "soak", "--set", f"name={name}", "--json"] if run is None else ["resume", run.id, "--json"]
        with open(folder / "commands.log", "ab") as log:
            process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, cwd=folder)
        while run is None and process.poll() is None:
            time.sleep(0.02)
            run = next(iter(named(folder, name)), None)
        if run is None:
            entry["lost"] = f"bake ended with {process.wait()} and no run"
            break
        entry["run"] = run.id
        entry["strikes"].append(strike(run, attempt, victim, process, moment=moment))
        process.wait()
        settle_down(run)
        if run.last_attempt.number < attempt:
            entry["lost"] = f"attempt {attempt} did not begin"
        steps = [kept.step or 0 for kept in training_states(run) if kept.whole]
        if entry["lost"] or not steps or state(run).status is Status.OK:
            break
    else:
        entry["lost"] = f"nobody struck the last attempt, and it is {state(run).status.value}" if run else "no run"
    return entry


def named(folder: Path, name: str) -> list[Run]:
    """The run of a bake; none while it is being born."""
    return [Run(path) for path in (folder / "runs").glob(f"*_{name}_*")]


def strike(
    run: Run, attempt: int, victim: str, process: subprocess.Popen[bytes], *, moment: tuple[float, int | None]
) -> dict[str, Any]:
    """Wait for a moment of this attempt (seconds after its birth, or a step) and kill the victim; says what was done."""
    after, step = moment
    while run.last_attempt.number < attempt and process.poll() is None:
        time.sleep(0.02)
    until = time.monotonic() + after
    while process.poll() is None and (
        time.monotonic() < until or (step is not None and stands_at(run, attempt) < step)
    ):
        time.sleep(0.02)
    done = {"attempt": attempt, "victim": victim, "step": stands_at(run, attempt), "hit": False}
    done["states"] = sum(kept.whole for kept in training_states(run))
    if victim == "nobody" or process.poll() is not None:
        return done
    if victim == "command":
        process.kill()
        return done | {"hit": True}
    if victim == "stop":
        line = [sys.executable, "-m", "lorakit", "-C", str(run.path.parents[1]), "stop", run.id]
        ended = subprocess.run(line, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return done | {"hit": ended.returncode == 0}
    who = pid_of(run, victim)
    return done | {"hit": who is not None and who.kill(signal.SIGKILL)}


def stands_at(run: Run, attempt: int) -> int:
    """The step that an attempt is known to have done."""
    try:
        lines = run.attempt(attempt).progress.read_bytes().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue
    return 0


def pid_of(run: Run, victim: str) -> ProcessId | None:
    """The victim, by the facts of the attempt."""
    attempt = run.last_attempt
    if victim == "keeper":
        return ProcessId.from_json((read_record(attempt.started) or {}).get("keeper"))
    if victim == "launcher":
        return ProcessId.from_json(read_record(attempt.path / "launcher.json"))
    record: dict[str, Any] = read_record(attempt.ranks / "rank-0.json") or {}
    trainer = ProcessId.from_json(record)
    if victim == "trainer" or trainer is None or not trainer.is_alive():
        return trainer
    try:
        return ProcessId.of(int(record["shim"]))
    except ProcessLookupError:
        return None


def settle_down(run: Run) -> None:
    """Wait until nothing of a run lives."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (is_alive(run.last_attempt) or state(run).status is Status.PREPARED):
        time.sleep(0.02)


def judged(run: Run, trainer: str) -> list[str]:
    """What is not as it should be."""
    found, wrong = state(run), []
    if found.status not in {Status.OK, Status.STOPPED, Status.FAILED, Status.INTERRUPTED}:
        wrong.append(f"is {found.status}: {found.message}")
    if not found.sealed:
        wrong.append("is not sealed")
    else:
        wrong += [f"{one.kind} {one.path} {one.detail}" for one in verify(run)]
    for number in range(1, found.attempt + 1):
        record = read_record(run.attempt(number).ended)
        if record is None or "damaged" in record:
            wrong.append(f"attempt {number} has no end")
        cookie = (read_record(run.attempt(number).started) or {}).get("cookie")
        if is_alive(run.attempt(number)) or (cookie and processes_with_cookie(cookie)):
            wrong.append(f"something of attempt {number} lives")
    if found.status is Status.OK:
        final = [entry for entry in checkpoints(run) if Path(entry["path"]).name == f"{found.name}.safetensors"]
        if found.steps != STEPS or not final or "fault" in final[0]:
            wrong.append(f"is ok with {found.steps} steps and {final}")
        elif trainer == "small" and (run.path / final[0]["path"]).read_bytes()[-64:] != value_after(STEPS):
            wrong.append("has lost a step or done one twice")
        elif trainer == "builtin" and run.attempt(2).path.exists():
            wrong += other_tensors(run, run.path / final[0]["path"])
    return [f"{run.id} {line}" for line in wrong]


_reference: dict[str, bytes] = {}


def other_tensors(run: Run, path: Path) -> list[str]:
    """Whether a resumed bake of the built-in trainer has other tensors than one in one go, bit for bit."""
    if not _reference:
        for other in list_runs(run.path.parent):
            if state(other).status is Status.OK and other.last_attempt.number == 1:
                _reference["data"] = tensors(other.weights / f"{state(other).name}.safetensors")
                break
        else:
            return []
    return [] if tensors(path) == _reference["data"] else ["has other tensors than a bake in one go"]


def tensors(path: Path) -> bytes:
    """The bytes of a safetensors file after its header."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def value_after(steps: int) -> bytes:
    """What the small trainer's weights hold after so many steps."""
    value = ""
    for step in range(1, steps + 1):
        value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
    return value.encode()


if __name__ == "__main__":
    main()
