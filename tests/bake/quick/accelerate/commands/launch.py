"""Starts the script after lorakit's four launch options and ends with 1 when it fails, as accelerate does.

Several ranks get a session of their own each, as torch's launcher does it; TERM is handed on, and one that fails ends the others.
"""

import os
import re
import signal
import subprocess
import sys
import time

assert sys.argv[1] == "--config_file", sys.argv
assert sys.argv[3:5] == ["--quiet", "--num_cpu_threads_per_process"], sys.argv
with open(sys.argv[2], encoding="utf-8") as config:
    found = re.search(r"num_processes: (\d+)", config.read())
assert found
count = int(found.group(1))
if count == 1:
    sys.exit(1 if subprocess.Popen([sys.executable, *sys.argv[6:]]).wait() else 0)
ranks = [
    subprocess.Popen([sys.executable, *sys.argv[6:]], start_new_session=True, env={**os.environ, "RANK": str(rank)})
    for rank in range(count)
]


def end(*_: object) -> None:
    for rank in ranks:
        if rank.poll() is None:
            os.killpg(rank.pid, signal.SIGTERM)


signal.signal(signal.SIGTERM, end)
failed = False
while None in [rank.poll() for rank in ranks]:
    if not failed and any(rank.returncode for rank in ranks):
        failed = True
        end()
    time.sleep(0.02)
sys.exit(1 if any(rank.returncode for rank in ranks) else 0)
