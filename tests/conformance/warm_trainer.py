"""The environment of a real sd-scripts, warm: runs one command after another, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from lorakit.trainers.choose import PROBE
from tests.conformance.checkout import PYTHON, SCRIPT, asked

__all__ = ["ENVIRONMENT", "WarmTrainer"]

#: What every trial is run under: no network, no GPU, one thread, so that the same command gives the same bits.
ENVIRONMENT: Final = {
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}

#: Reads jobs, one JSON object a line, and runs each in a process of its own that has the slow imports behind it already.
#: A job without ``trains`` is ended, with its whole group, once its log has the last of the announced numbers.
_RUNNER: Final = """
import json, os, runpy, signal, sys, time
import cv2, accelerate, diffusers, torch, transformers, torch.utils.tensorboard
from diffusers import AutoencoderKL, StableDiffusionPipeline, DDPMScheduler, EulerAncestralDiscreteScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
torch.set_num_threads(1)

def run(job):
    os.setsid()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1); os.dup2(log, 2)
    sys.argv = [*job["program"], *job["arguments"]]
    script = job["program"][0]
    sys.path.insert(0, os.path.dirname(script))
    code, error = 1, ""
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        error = "SystemExit"
    except BaseException as problem:
        import traceback
        traceback.print_exc()
        error = type(problem).__name__
    finally:
        with open(job["log"] + ".error", "w") as file:
            file.write(error)
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)

def announced(path):
    try:
        with open(path, "rb") as log:
            return b"total optimization steps" in log.read()
    except FileNotFoundError:
        return False

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        run(job)
    code = None
    while code is None:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        elif not job["trains"] and announced(job["log"]):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            code = 0
        else:
            time.sleep(0.1)
    try:
        with open(job["log"] + ".error") as file:
            error = file.read()
    except FileNotFoundError:
        error = ""
    print(json.dumps({"code": code, "error": error}), file=sys.__stdout__, flush=True)
"""


class WarmTrainer:
    """A process with the trainer's packages imported, that forks one for each command."""

    def __init__(self) -> None:
        variables = asked()
        self.script = SCRIPT
        self.process = subprocess.Popen(
            ["nice", "-n", "5", PYTHON, "-c", _RUNNER],
            env={**os.environ, **variables, **ENVIRONMENT},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def run(self, arguments: Iterable[str], log: Path, *, trains: bool = True, probe: bool = False) -> tuple[int, str]:
        """The exit code and the class of the exception that ended it.

        The code is 0 also where it was ended because it had announced everything (``trains`` is False).
        """
        program = [*([str(PROBE)] if probe else []), self.script]
        job = {"program": program, "arguments": list(arguments), "log": str(log), "trains": trains}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the trainer's environment ended: {self.process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return int(told["code"]), str(told["error"])

    def close(self) -> None:
        """Let it end: it does when there are no more jobs."""
        with self.process:
            pass
