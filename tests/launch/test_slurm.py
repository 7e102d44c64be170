"""The text of Slurm jobs, the settings they come from, and what a Slurm that is not there is told as; no Slurm is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import UsageError, WorkspaceError
from lorakit.launch import slurm
from lorakit.launch.slurm import JobState, SlurmSettings, indices, job_states, multi_node, script, submit

FULL = {
    "partition": "gpu",
    "account": "lab",
    "qos": "long",
    "gres": "gpu:a100:1",
    "gpus": "a100:2",
    "cpus": 8,
    "mem": "32G",
    "time": "1h30m",
    "constraint": "a100|h100",
    "grace": "3m",
    "requeue": False,
    "width": 4,
    "setup": ["module load cuda", "export X='a b'"],
    "extra": ["--mail-type=END", "#SBATCH --exclude=node7"],
}

GOLDEN = """\
#!/bin/bash
#SBATCH --job-name=lorakit-koi_a2b3
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --qos=long
#SBATCH --gres=gpu:a100:1
#SBATCH --gpus-per-node=a100:2
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=90
#SBATCH --constraint=a100|h100
#SBATCH --signal=B:TERM@180
#SBATCH --no-requeue
#SBATCH --open-mode=append
#SBATCH --mail-type=END
#SBATCH --exclude=node7

module load cuda
export X='a b'
exec python -m lorakit.bake.job '/w s/runs/koi'
"""


def test_the_text_of_a_job() -> None:
    assert (
        script(SlurmSettings.of(FULL), "lorakit-koi_a2b3", ["python", "-m", "lorakit.bake.job", "/w s/runs/koi"])
        == GOLDEN
    )


def test_the_text_of_a_job_without_settings() -> None:
    assert script(SlurmSettings(), "j", ["true"]).splitlines() == [
        "#!/bin/bash",
        "#SBATCH --job-name=j",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "",
        "exec true",
    ]


def test_the_text_of_an_array() -> None:
    lines = script(SlurmSettings(width=3), "s", ["p"], array=indices([5, 1, 2, 3, 9, 10])).splitlines()
    assert lines[2] == "#SBATCH --array=1-3,5,9-10%3"
    assert script(SlurmSettings(), "s", ["p"], array="7").splitlines()[2] == "#SBATCH --array=7"


@pytest.mark.parametrize("word", ["a b", "it's", 'say "x"', "ünï–cödé", "two\nlines", "$HOME `id` \\ %j #", "", "-x"])
def test_hostile_words_reach_the_program_as_they_are(word: str, tmp_path: Path) -> None:
    program = "import sys, os; sys.stdout.buffer.write(repr(sys.argv[1:]).encode())"
    path = tmp_path / "job.sh"
    path.write_text(script(SlurmSettings(), "j", [sys.executable, "-c", program, word]), encoding="utf-8")
    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == repr([word])


def test_the_program_takes_the_place_of_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(script(SlurmSettings(), "j", [sys.executable, "-c", "import os; print(os.getpid())"]))
    with subprocess.Popen(["bash", str(path)], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate()
    assert int(said) == process.pid


def test_several_processes_on_one_node_are_the_launchers_own_business() -> None:
    lines = script(SlurmSettings.of({"gpus": 4, "cpus": 16}), "j", ["p"]).splitlines()
    assert lines[2:4] == ["#SBATCH --gpus-per-node=4", "#SBATCH --cpus-per-task=16"]
    assert not [line for line in lines if "ntasks" in line]


LINE = ("py", "-m", "accelerate.commands.launch", "--config_file", "/a b/c.yaml", "--quiet", "--num_cpu_threads_per_process",
        "2", "shim.py", "train.py", "--x=it's")  # fmt: skip


def test_the_launch_line_of_several_nodes() -> None:
    assert multi_node(LINE, nodes=2, processes=4, host="n1", port=29500) == (
        "srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--export=ALL", "sh", "-c",
        ("exec py -m accelerate.commands.launch --config_file '/a b/c.yaml' --quiet --num_machines 2 --num_processes 8"
        ' --main_process_ip n1 --main_process_port 29500 --machine_rank "$SLURM_NODEID" "$@"'),
        "lorakit", "--num_cpu_threads_per_process", "2", "shim.py", "train.py", "--x=it's",
    )  # fmt: skip
    assert script(SlurmSettings(nodes=2), "j", ["p"]).splitlines()[2:4] == [
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
    ]


def test_each_node_gets_its_own_rank_and_every_word() -> None:
    line = multi_node(
        (sys.executable, "-c", "import sys; print(sys.argv[1:])", *LINE[3:]), nodes=2, processes=1, host="n", port=1
    )
    own = line[line.index("sh") :]  # what srun starts on each node
    done = subprocess.run(own, capture_output=True, text=True, check=True, env={**os.environ, "SLURM_NODEID": "1"})
    words = ["--config_file", "/a b/c.yaml", "--quiet", "--num_machines", "2", "--num_processes", "2", "--main_process_ip", "n",
             "--main_process_port", "1", "--machine_rank", "1", *LINE[6:]]  # fmt: skip
    assert done.stdout.strip() == repr(words)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"partitoin": "gpu"}, "there is no key partitoin"),
        ({"partition": "a b"}, "partition = 'a b'"),
        ({"partition": "gpu\n#SBATCH --x"}, "partition"),
        ({"partition": 3}, "partition = 3"),
        ({"cpus": 0}, "cpus = 0"),
        ({"nodes": True}, "nodes = True"),
        ({"gpus": "two"}, "gpus = 'two'"),
        ({"mem": "lots"}, "mem = 'lots'"),
        ({"time": "90"}, "time = '90'"),
        ({"time": 90}, "time = 90"),
        ({"grace": 5}, "grace = 5"),
        ({"requeue": "yes"}, "requeue = 'yes'"),
        ({"setup": ["a\nb"]}, "setup"),
        ({"setup": 3}, "setup = 3"),
        ({"extra": ["--output=x"]}, "lorakit's own to say"),
        ({"extra": ["-o x"]}, "lorakit's own to say"),
        ({"extra": ["mail"]}, "is no option of sbatch"),
        ("gpu", "it is not a table"),
    ],
)
def test_settings_that_cannot_be_meant(table: Any, said: str) -> None:
    with pytest.raises(WorkspaceError) as caught:
        SlurmSettings.of(table)
    assert said in caught.value.what
    assert caught.value.todo
    assert "\n" not in caught.value.what


def test_a_near_key_is_named() -> None:
    with pytest.raises(WorkspaceError) as caught:
        SlurmSettings.of({"partitoin": "gpu"})
    assert caught.value.todo == "did you mean partition?"


def test_times_in_both_forms() -> None:
    assert [SlurmSettings.of({"time": text}).time for text in ("12h", "90s", "1-12:00:00", "02:30:00")] == [
        "720", "2", "1-12:00:00", "02:30:00",
    ]  # fmt: skip


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Programs in the place of Slurm's own."""
    for name, text in texts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_accounting_a_forgotten_job_is_told_as_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    programs(tmp_path, monkeypatch, squeue=refuses, sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert job_states(["7"]) == {"7": JobState("")}
    assert JobState("").is_over


def test_sacct_tells_of_jobs_that_left_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(
        tmp_path, monkeypatch, squeue="echo '7_1|PENDING|Resources'", sacct="echo '7_2|CANCELLED by 0'; echo '7_3|TIMEOUT'"
    )  # fmt: skip
    found = job_states(["7_1", "7_2", "7_3", "7_4"])
    assert found == {
        "7_1": JobState("PENDING", "Resources"),
        "7_2": JobState("CANCELLED"),
        "7_3": JobState("TIMEOUT"),
        "7_4": JobState(""),
    }
    assert [state.waits for state in found.values()] == [True, False, False, False]
    assert found["7_1"].told == "pending (Resources)"


@pytest.mark.parametrize("squeue", ["exec sleep 30", "echo 'Unable to contact slurm controller' >&2; exit 1"])
def test_no_answer_is_unknown(squeue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, squeue=squeue)
    assert job_states(["7"], 0.3) is None


def test_where_there_is_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_states(["7"]) is None
    assert not slurm.cancel(["7"])
    assert slurm.times_of("7") == {}
    with pytest.raises(UsageError, match="there is no Slurm here"):
        submit(tmp_path / "job.sh", folder=tmp_path, output="x")


def test_what_sbatch_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "echo 'sbatch: error: invalid partition specified: x' >&2; echo 'sbatch: error: Batch job submission failed' >&2; exit 1"
    programs(tmp_path, monkeypatch, sbatch=said)
    with pytest.raises(UsageError) as caught:
        submit(tmp_path / "job.sh", folder=tmp_path, output="x")
    assert caught.value.why == "invalid partition specified: x; Batch job submission failed"


def test_a_job_is_no_child_of_the_job_that_submits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, sbatch=f"env > {tmp_path}/env; echo '12;cluster'")
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "1-9")
    assert submit(tmp_path / "job.sh", folder=tmp_path, output="x") == "12"
    assert not [line for line in (tmp_path / "env").read_text().splitlines() if line.startswith(("SLURM_J", "SBATCH_"))]
