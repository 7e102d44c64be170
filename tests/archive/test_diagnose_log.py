"""One line that tells why, from facts and logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.archive.diagnose_log import Evidence, Reason, Status, Verdict, diagnose, last_exception, log_tail

OK = Evidence(steps=4, total_steps=4)


def fails(log: str = "", **values: object) -> Verdict:
    known: dict[str, object] = {"code": 1, "steps": 41, "total_steps": 343, "result": "missing"}
    return diagnose(Evidence(**{**known, **values}, log=tuple(log.splitlines())))  # type: ignore[arg-type]


def test_success_needs_the_file_and_the_exit_code() -> None:
    assert diagnose(OK) == Verdict(Status.OK, Reason.OK, "4 steps")
    assert fails(code=0).reason is Reason.NO_RESULT
    assert fails(code=0, result="torn").reason is Reason.TORN_RESULT
    assert fails(code=0, log="x - No data found. Please verify arguments").reason is Reason.NO_DATA
    assert fails(result="whole").status is Status.FAILED


def test_a_launcher_that_fails_after_the_ranks_ended_well_spoils_nothing() -> None:
    found = diagnose(Evidence(steps=4, total_steps=4, launcher=1))
    assert found.status is Status.OK
    assert "exit code 1" in found.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.10 GiB. GPU 0 has a total capacity of 23.65 GiB "
                "of which 312.50 MiB is free. Including non-PyTorch memory, this process has 23.3 GiB memory in use."
            ),
            "CUDA out of memory (tried 1.10 GiB, 312.50 MiB free of 23.65 GiB)",
        ),
        (
            (
                "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.79 GiB total capacity; 6.45 GiB already "
                "allocated; 12.19 MiB free; 6.52 GiB reserved in total by PyTorch)"
            ),
            "CUDA out of memory (tried 20.00 MiB, 12.19 MiB free of 7.79 GiB)",
        ),
        ("RuntimeError: CUDA error: out of memory", "CUDA out of memory"),
    ],
)
def test_cuda_out_of_memory_with_its_numbers(line: str, message: str) -> None:
    found = fails(f"Traceback (most recent call last):\n  File x\n{line}")
    assert found == Verdict(Status.FAILED, Reason.OOM_CUDA, f"failed at step 41 of 343: {message}")


TRACE = "Traceback (most recent call last):\n  File x\n"


@pytest.mark.parametrize(
    ("log", "reason", "said"),
    [
        ("OSError: [Errno 28] No space left on device: 'a'", Reason.DISK_FULL, "the disk is full"),
        (TRACE + "OSError: [Errno 27] File too large", Reason.DISK_FULL, "the disk is full"),
        (
            TRACE + "FileNotFoundError: [Errno 2] No such file or directory: '/a b/model.safetensors'",
            Reason.MISSING_FILE,
            "missing file: '/a b/model.safetensors'",
        ),
        (TRACE + "ModuleNotFoundError: No module named 'prodigyopt'", Reason.MISSING_MODULE, "'prodigyopt'"),
        (
            "a kernel is not loaded: No module named 'kernels'\n" + TRACE + "ValueError: shapes differ",
            Reason.ERROR,
            "ValueError: shapes differ",
        ),
        ("/opt/a b/bin/python3.11: No module named accelerate", Reason.MISSING_MODULE, "No module named accelerate"),
        (TRACE + "ImportError: cannot import name 'x' from 'y'", Reason.MISSING_MODULE, "cannot import name 'x'"),
        (
            (
                "/p: Error while finding module specification for 'accelerate.commands.launch' (ModuleNotFoundError: No module "
                "named 'accelerate')"
            ),
            Reason.MISSING_MODULE,
            "lacks something: No module named 'accelerate'",
        ),
        (TRACE + "RuntimeError: NaN detected in latents", Reason.NAN, "NaN detected"),
        ("RuntimeError: The server socket failed to listen: EADDRINUSE", Reason.PORT_IN_USE, "in use"),
        (TRACE + "KeyError: 'dim'\n\n" + TRACE + "my.BadThingError: no", Reason.ERROR, "BadThingError: no"),
        (
            TRACE
            + "FileNotFoundError: [Errno 2] No such file or directory: 'optional'\nwent on\n"
            + TRACE
            + "KeyError: 1",
            Reason.ERROR,
            "KeyError: 1",
        ),
        ("ordinary\nlast words", Reason.ERROR, "ended with exit code 1; last line: last words"),
    ],
)
def test_causes_in_the_log(log: str, reason: Reason, said: str) -> None:
    found = fails(log)
    assert found.reason is reason
    assert said in found.message
    assert "\n" not in found.message


def test_the_elastic_launchers_summary_is_not_the_cause() -> None:
    log = (
        "Traceback (most recent call last):\n  x\nZeroDivisionError: float division by zero\n"
        "E1122 09:55:36.389000 1 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1)\n"
        "Traceback (most recent call last):\n  y\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n=====\nshim.py FAILED\n====="
    )
    assert fails(log).message.endswith("ZeroDivisionError: float division by zero")
    assert last_exception(["Traceback (most recent call last):", "subprocess.CalledProcessError: Command"]) is None


def test_signals() -> None:
    assert fails(code=None, signal=9).message.endswith("rank 0 was killed by signal 9 (SIGKILL)")
    assert fails(code=None, signal=9, oom_kills=1).reason is Reason.OOM_KILLED
    assert fails(code=None, signal=11, rank=1).message.endswith("rank 1 was killed by signal 11 (SIGSEGV)")
    assert fails(code=0, unreported=(0, 1)).reason is Reason.SIGNALLED
    assert "(unknown)" in fails(code=None, signal=99).message


def test_a_spike_says_when_and_what_is_kept() -> None:
    found = fails(
        code=0, result="whole", end_reason="spike", end_message="the loss was too high in steps 25 to 27", steps=27
    )
    assert (found.status, found.reason) == (Status.FAILED, Reason.SPIKE)
    assert (
        found.message
        == "failed at step 27 of 343: the loss was too high in steps 25 to 27; the LoRA as it was then is saved"
    )


def test_nan() -> None:
    assert fails(code=0, result="whole", nan_since=7).reason is Reason.NAN
    assert "step 7" in fails(code=0, result="whole", nan_since=7).message
    assert fails(code=0, end_reason="nan", end_message="the loss is NaN at step 9").message.endswith("NaN at step 9")


def test_refused_arguments() -> None:
    found = fails("usage: x\nx.py: error: unrecognized arguments: --foo", code=2, steps=0)
    assert found.reason is Reason.BAD_ARGUMENTS
    assert "--foo" in found.message


def test_never_started() -> None:
    found = fails("no module named accelerate", code=0, started=False, steps=0, launcher=1)
    assert found.reason is Reason.NEVER_STARTED
    assert found.message.startswith("never started")
    assert fails(code=0, started=False, steps=0).reason is Reason.NEVER_STARTED


@pytest.mark.parametrize(
    ("values", "status", "said"),
    [
        ({"stop_level": 1, "code": 0, "end_reason": "stopped", "result": "whole"}, Status.STOPPED, "is saved"),
        ({"stop_level": 2, "code": None, "signal": 15}, Status.STOPPED, "terminated by the user"),
        ({"stop_level": 3, "code": None, "signal": 9}, Status.STOPPED, "killed by the user"),
        ({"stop_level": 1, "code": 1}, Status.FAILED, "exit code 1"),
        ({"stop_level": 0, "code": 0, "end_reason": "stopped", "result": "whole"}, Status.STOPPED, "stopped"),
    ],
)
def test_stopping(values: dict[str, object], status: Status, said: str) -> None:
    found = fails("", **values)
    assert found.status is status
    assert said in found.message


def test_a_stop_that_came_too_late_changes_nothing() -> None:
    asked = Evidence(steps=4, total_steps=4, stop_level=1, end_reason="ok")
    assert diagnose(asked).status is Status.OK


def test_the_tail_of_a_log_is_what_a_terminal_shows(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    assert log_tail(path) == ()
    path.write_bytes(b"first\r\n\x1b[31mred\x1b[0m\nsteps: 1%\rsteps: 50%\rsteps: 100%\nbad \xff byte\n\n\n")
    assert log_tail(path) == ("first", "red", "steps: 100%", "bad \ufffd byte")
    assert log_tail(path, 1) == ("bad \ufffd byte",)
    path.write_bytes(b"x" * 500_000 + b"\nlast\n")
    assert log_tail(path) == ("last",)
