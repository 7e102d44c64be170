"""Who a process is, whether it lives, and locks that die with their holders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.errors import TrainerError
from lorakit.launch.processes import (
    COOKIE_ENV,
    ProcessId,
    hold_lock,
    is_locked,
    processes_with_cookie,
    require_linux,
    wait_gone,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={COOKIE_ENV: "cookie-of-test"}
    )
    yield process
    process.kill()
    process.wait()


def test_a_process_is_alive_until_it_is_not(sleeper: subprocess.Popen[bytes]) -> None:
    who = ProcessId.of(sleeper.pid)
    assert who.is_alive()
    assert ProcessId.from_json(who.to_json()) == who
    sleeper.kill()
    assert wait_gone((who,), 10) == ()  # a zombie already counts as dead
    sleeper.wait()
    assert not who.is_alive()
    assert not who.kill(signal.SIGTERM)


def test_the_same_pid_at_another_time_boot_or_host_is_somebody_else(sleeper: subprocess.Popen[bytes]) -> None:
    who = ProcessId.of(sleeper.pid)
    for other in (replace(who, ticks=who.ticks - 1), replace(who, boot_id="before"), replace(who, host="elsewhere")):
        assert not other.is_alive()
        assert not other.kill(signal.SIGKILL)
    assert sleeper.poll() is None


def test_no_such_process() -> None:
    with pytest.raises(ProcessLookupError):
        ProcessId.of(2**22 + 1)


@pytest.mark.parametrize("value", [None, 3, {}, {"pid": "1", "ticks": 2, "boot_id": "", "host": ""}, {"pid": 1}])
def test_a_torn_record_names_nobody(value: object) -> None:
    assert ProcessId.from_json(value) is None


def test_the_cookie_finds_the_processes_of_a_run(sleeper: subprocess.Popen[bytes]) -> None:
    wait = [who.pid for who in processes_with_cookie("cookie-of-test")]
    assert wait == [sleeper.pid]
    assert processes_with_cookie("cookie-of-tes") == ()


def test_a_lock_is_held_by_whoever_inherits_it_and_free_when_all_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "alive.lock"
    assert not is_locked(path)
    handle = hold_lock(path)
    assert is_locked(path)
    assert is_locked(path), "asking does not take it"
    other = hold_lock(path)  # shared: the next holder does not wait
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[handle])
    os.close(handle)
    os.close(other)
    assert is_locked(path)
    child.kill()
    child.wait()
    assert not is_locked(path)


def test_other_systems_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(TrainerError, match="cannot be started on darwin") as caught:
        require_linux()
    assert "Linux" in caught.value.todo
    assert not is_locked(Path("/nowhere"))
