"""A Slurm of one controller and one node on loopback, in a folder of its own, for as long as somebody needs it.

``python -m tests.slurm.cluster FOLDER`` starts one and says which variables lead to it; Ctrl-C ends it. It needs Debian's slurm-wlm and
munge, and root: the node's processes are followed by /proc, nothing is confined, nothing is accounted for.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0,requeue_delay=0
KillWait=5
MinJobAge=30
OverTimeLimit=0
MessageTimeout=10
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=512 State=UNKNOWN
PartitionName=small Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why no Slurm can be started here; empty when one can."""
    absent = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "only root can start a Slurm that runs jobs"


class Cluster:
    """A Slurm under way: ``env`` is what its commands need in their environment."""

    def __init__(self, folder: Path, *, cpus: int = 2, apart: str = "") -> None:
        """With ``apart``, the node is a machine of this name as far as processes and host name go: see :meth:`lose_node`."""
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf)}
        self._cpus = cpus
        self._apart = apart
        self._host = socket.gethostname().split(".")[0]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all three daemons; returns when the node takes jobs. Raises RuntimeError with the log's end otherwise."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        os.chmod(self.folder, 0o755)  # munged goes by who else can write on the way to its socket
        values = {"host": self._host, "ports": _free_ports(2), "user": getpass.getuser(), "folder": self.folder}
        self.conf.write_text(_CONF.format(**values, cpus=self._cpus), encoding="utf-8")
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
        munge = [f"--socket={self.folder}/munge.socket", f"--key-file={key}", f"--pid-file={self.folder}/munged.pid"]
        munge += [f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed", "--num-threads=2"]
        self._spawn("munged", "--foreground", "--force", *munge)
        self._wait((self.folder / "munge.socket").exists, "munged")
        self.start_controller()
        self.start_node(self._apart)

    def start_controller(self) -> None:
        """Start slurmctld, with the jobs that it knew before."""
        self._spawn("slurmctld", "-D", "-f", str(self.conf))
        self._wait(lambda: "is UP" in self.ask("scontrol", "ping"), "slurmctld")

    def start_node(self, apart: str = "") -> None:
        """Start slurmd; with ``apart``, with a host name and processes of its own, all of which live in one process's hands."""
        line = ["-D", "-f", str(self.conf), "-N", self._host]
        if apart:
            machine = ["--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
            self._spawn("unshare", *machine, 'hostname "$0" && exec slurmd "$@"', apart, *line, name="slurmd")
        else:
            self._spawn("slurmd", *line)
        self._wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%t"), "slurmd")

    def lose_node(self) -> None:
        """The power of the node goes: everything on it is gone at once, and the controller takes it for down."""
        node = self._running.pop("slurmd")
        node.kill()
        node.wait()
        self.ask("scontrol", "update", f"NodeName={self._host}", "State=DOWN", "Reason=lost")

    def stop_controller(self) -> None:
        """End slurmctld: nobody answers for jobs any more, which go on."""
        self._end("slurmctld")

    def freeze(self) -> None:
        """Let the controller hang: it takes calls and never answers them."""
        self._running["slurmctld"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._running["slurmctld"].send_signal(signal.SIGCONT)

    def ask(self, *argv: str, seconds: float = 10.0) -> str:
        """What one of Slurm's commands prints; empty when it fails."""
        environment = {**os.environ, **self.env}
        try:
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def stop(self) -> None:
        """Cancel every job and end the daemons, each by its own process."""
        if "slurmctld" in self._running:
            self.ask("scancel", "--full", "-s", "KILL", f"--user={getpass.getuser()}")
            self.ask("scancel", f"--user={getpass.getuser()}")
            deadline = time.monotonic() + 10
            while self.ask("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in list(self._running)[::-1]:
            self._end(name)

    def _spawn(self, program_name: str, *arguments: str, name: str = "") -> None:
        program = shutil.which(program_name, path=_PATH)
        assert program is not None
        name = name or program_name
        with open(self.folder / f"{name}.out", "ab") as out:
            environment = {**os.environ, **self.env, "PATH": _PATH}
            self._running[name] = subprocess.Popen(
                [program, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                preexec_fn=_die_with_us,  # noqa: PLW1509 (nothing of a killed test run stays behind)
            )

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, ready: Callable[[], object], name: str) -> None:
        deadline = time.monotonic() + 30
        while not ready():
            if time.monotonic() > deadline or self._running[name].poll() is not None:
                tail = [
                    path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob(f"{name}.*o[ug]*"))
                ]
                raise RuntimeError(f"{name} did not come up:\n" + "\n".join(tail))
            time.sleep(0.05)


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)


def _free_ports(count: int) -> tuple[int, ...]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = tuple(int(server.getsockname()[1]) for server in servers)
    for server in servers:
        server.close()
    return ports


@contextmanager
def running(folder: Path, *, cpus: int = 2, apart: str = "") -> Iterator[Cluster]:
    """A Slurm until the block ends."""
    cluster = Cluster(folder, cpus=cpus, apart=apart)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def main() -> None:
    """Start one and wait for Ctrl-C."""
    if why := missing():
        sys.exit(why)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running(Path(sys.argv[1])) as cluster:
        print(*(f"export {name}={value}" for name, value in cluster.env.items()), sep="\n", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
