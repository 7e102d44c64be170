"""The soak: many short bakes, random processes of them killed at random moments, and then: is everything right that should be?

    python benchmarks/soak.py --bakes 200 --seed 1
    python benchmarks/soak.py --bakes 20 --trainer builtin --minutes 5

Each bake gets, by the seed, a moment and a victim: its keeper, launcher, shim, trainer, the command that started it, a graceful stop,
or nothing. Bakes that did not finish are resumed, and the resumed ones are struck too. Afterwards every run must be what the archive
says it is, `verify` clean, nothing of it alive, no temporary left, and its weights those of all its steps, none lost and none done twice.
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
VICTIMS = ("keeper", "launcher", "shim", "trainer", "command", "stop", "nobody")
STEPS = 12


def main() -> None:
    """Soak and print the figures as JSON; exit code 1 when anything is not as it should be."""
    asked = parse()
    folder = Path(tempfile.mkdtemp(prefix="lorakit-soak-", dir=asked.folder))
    environment = workspace(folder, asked.trainer)
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=asked.at_once) as pool:
        futures = [
            pool.submit(one, folder, environment, random.Random(f"{asked.seed}-{number}"), began, asked)
            for number in range(asked.bakes)
        ]
        struck = Counter(victim for future in futures for victim in future.result())
    seconds = time.monotonic() - began
    actions = Counter(action.kind for action in repair_archive(folder / "runs"))
    again = [action for action in repair_archive(folder / "runs") if action.done]
    wrong = [line for run in list_runs(folder / "runs") for line in judged(run, asked.trainer)]
    wrong += [f"repair does it again: {action.kind} {action.what}" for action in again]
    wrong += [f"left over: {path}" for path in folder.rglob("*") if TEMP_MARK in path.name or ".birth-" in path.name]
    found = [state(run) for run in list_runs(folder / "runs")]
    print(json.dumps({
        "trainer": asked.trainer,
        "seed": asked.seed,
        "bakes": len(found),
        "attempts": sum(run.attempt for run in found),
        "struck": dict(sorted(struck.items())),
        "states": dict(Counter(run.status.value for run in found)),
        "repaired": dict(sorted(actions.items())),
        "seconds": round(seconds),
        "wrong": wrong,
    }, indent=2))  # fmt: skip
    if wrong:
        sys.exit(f"kept for a look: {folder}")
    shutil.rmtree(folder)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Many short bakes with random kills.")
    parser.add_argument("--bakes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trainer", choices=("small", "builtin"), default="small")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further bake after so long")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--within", type=float, default=3.0, help="seconds from an attempt's birth to its strike")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--quick-launcher", type=Path, default=None, help="a folder with a stand-in for accelerate")
    return parser.parse_args()


def workspace(folder: Path, trainer: str) -> dict[str, str]:
    """A workspace for the bakes; gives the environment to bake in."""
    from PIL import Image

    pictures = folder / "things" / "1_thing"
    pictures.mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (64, 64), (60 * index, 90, 120)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(f"thing {index}", encoding="utf-8")
    write = [sys.executable, "-m", "lorakit.bench_model", "write", str(folder / "base.safetensors"), "--size", "tiny"]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = ""
    if trainer == "small":
        (folder / "checkout").mkdir()
        shutil.copy(ROOT / "benchmarks" / "soak_trainer.py", folder / "checkout" / "sdxl_train_network.py")
        lines = f'[sd_scripts]\npath = "{folder / "checkout"}"\npython = "{sys.executable}"\n'
    (folder / "lorakit.toml").write_text(lines, encoding="utf-8")
    kind = "sd-scripts" if trainer == "small" else "builtin"
    (folder / "presets").mkdir()
    (folder / "presets" / "soak.toml").write_text(PRESET.format(steps=STEPS, kind=kind), encoding="utf-8")
    return {**os.environ, "OMP_NUM_THREADS": "1"}


PRESET = """\
name = "soak"
seed = 7
[base]
model = "base.safetensors"
[dataset]
path = "things"
resolution = 64
bucket_min = 64
bucket_max = 128
bucket_step = 32
workers = 0
[network]
dim = 2
[optim]
type = "AdamW"
unet_lr = 1e-3
te_lr = 1e-3
schedule = "cosine"
[length]
steps = {steps}
[precision]
mixed = "no"
save = "float"
[save]
every_n_steps = 3
state = true
[trainer]
kind = "{kind}"
[launch]
cpu = true
threads = 1
"""


def one(
    folder: Path, environment: dict[str, str], dice: random.Random, began: float, asked: argparse.Namespace
) -> list[str]:
    """One bake with its strikes, resumed until it has finished, at most twice struck while it resumes."""
    if time.monotonic() - began > asked.minutes * 60:
        return []
    if asked.quick_launcher:
        environment = {**environment, "PYTHONPATH": str(asked.quick_launcher)}
    struck = []
    run: Run | None = None
    for attempt in range(1, 6):
        victim = dice.choice(VICTIMS) if attempt <= 3 else "nobody"
        line = [sys.executable, "-m", "lorakit", "-C", str(folder)]
        line += ["bake", "soak", "--json"] if run is None else ["resume", run.id, "--json"]
        known = {path.name for path in (folder / "runs").glob("*_soak_*")}
        with open(folder / "commands.log", "ab") as log:
            process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, cwd=folder)
        run = run or born(folder, process, known)
        if run is None:
            continue
        struck.append(strike(run, attempt, victim, process, moment=dice.uniform(0.0, asked.within)))
        process.wait()
        settle_down(run)
        if state(run).status is Status.OK:
            break
        if not any(one.whole for one in training_states(run)):
            struck.append("no state yet")
            break
    return struck


def born(folder: Path, process: subprocess.Popen[bytes], known: set[str]) -> Run | None:
    """The run that a command has made: the one that its own process started."""
    while process.poll() is None:
        for run in list_runs(folder / "runs"):
            if run.id not in known and _claims.setdefault(run.id, process.pid) == process.pid:
                return run
        time.sleep(0.01)
    return None


_claims: dict[str, int] = {}


def strike(run: Run, attempt: int, victim: str, process: subprocess.Popen[bytes], *, moment: float) -> str:
    """Wait for a random moment of this attempt and kill the victim; says who was struck."""
    while run.last_attempt.number < attempt and process.poll() is None:
        time.sleep(0.01)
    until = time.monotonic() + moment
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.005)
    if victim == "nobody" or process.poll() is not None:
        return "nobody"
    if victim == "command":
        process.kill()
        return victim
    if victim == "stop":
        subprocess.run([sys.executable, "-m", "lorakit", "-C", str(run.path.parents[1]), "stop", run.id],
                       check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        return victim
    who = pid_of(run, victim)
    return victim if who is not None and who.kill(signal.SIGKILL) else f"{victim}: not there"


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
        final = [entry for entry in checkpoints(run) if Path(entry["path"]).name == "soak.safetensors"]
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
                _reference["data"] = tensors(other.weights / "soak.safetensors")
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
