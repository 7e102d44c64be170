"""Starts the script after lorakit's four launch options and ends with 1 when it fails, as accelerate does."""

import subprocess
import sys

assert sys.argv[1] == "--config_file", sys.argv
assert sys.argv[3:5] == ["--quiet", "--num_cpu_threads_per_process"], sys.argv
sys.exit(1 if subprocess.Popen([sys.executable, *sys.argv[6:]]).wait() else 0)
