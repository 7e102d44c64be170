"""A trainer of a few lines that speaks the run protocol and dies in whatever way it is told (a program, run by tests).

``small_trainer.py --output_dir D --output_name N [--steps S] [--seconds T] [--fault F]``
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from lorakit import protocol
from lorakit.archive.events import masked_crc


def main() -> None:
    asked = parse()
    rank = int(os.environ.get("RANK", "0"))
    writer = protocol.Writer.from_env() if rank == 0 else protocol.Writer(None)
    print(f"small trainer, rank {rank}, threads {os.environ.get('OMP_NUM_THREADS')}")
    print(f"warning on stderr {rank}", file=sys.stderr)
    if asked.fault in {"ignore-term", "deaf"}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if asked.fault == "child":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if asked.fault == "no-data":
        print("No data found. Please verify arguments (train_data_dir must be the parent of folders with images)")
        return
    if asked.fault == "environment":
        print(json.dumps(dict(os.environ)))
    if asked.fault.startswith("half-secret"):
        tell_half_a_secret(writer, hang=asked.fault.endswith("hang"))
    if asked.fault == "cuda-start":
        fail("cuda", rank)
    writer.write(
        "start", total_steps=asked.steps, epochs=1, batches_per_epoch=asked.steps, first_step=0, trainer="small"
    )
    reason = "ok"
    done = 0
    for step in range(1, asked.steps + 1):
        time.sleep(asked.seconds)
        loss = float("nan") if asked.fault == "nan" and step >= 2 else 1.0 / step
        writer.write("step", step=step, epoch=1, loss=loss, lr={"unet": 1e-4}, seconds=asked.seconds, rss=1 << 20)
        done = step
        if step == 2:
            fail(asked.fault, rank)
        if protocol.stop_requested() and asked.fault not in {"deaf", "ignore-stop"}:
            reason = "stopped"
            break
    if rank == 0 and asked.fault != "no-result":
        path = asked.output_dir / f"{asked.output_name}.safetensors"
        save(path, torn=asked.fault == "torn")
        writer.write("save", step=done, epoch=1, path=str(path), bytes=path.stat().st_size, kind="final")
        (asked.output_dir / "sample").mkdir(exist_ok=True)
        (asked.output_dir / "sample" / "one.png").write_bytes(b"png")
        state = asked.output_dir / f"{asked.output_name}-state"
        state.mkdir(exist_ok=True)
        (state / "train_state.json").write_text(json.dumps({"current_step": done}))
    writer.write("end", reason=reason, steps=done, message="")


def tell_half_a_secret(writer: protocol.Writer, *, hang: bool) -> None:
    """Print a secret in two writes some time apart, told and in an event file too; with ``hang``, wait to be killed between the two."""
    secret = os.environ["HF_TOKEN"]
    events = Path("events")
    events.mkdir(exist_ok=True)
    with open(events / "events.out.tfevents.1", "ab", buffering=0) as file:
        payload = b"*" + bytes([len(secret)]) + secret.encode()
        head = struct.pack("<Q", len(payload))
        file.write(head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload)))
    writer.write("warn", message=f"the token is {secret}")
    os.write(1, f"whole {secret}; half {secret[:16]}".encode())
    time.sleep(600 if hang else 0.5)
    os.write(1, f"{secret[16:]} and on\n".encode())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--output_name", required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--fault", default="")
    return parser.parse_args()


def fail(fault: str, rank: int) -> None:
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "rank1-exit" and rank == 1:
        sys.exit(7)
    if fault == "rank1-kill" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(600)
    if fault == "flood":
        bars = b"".join(b"\rsteps: %6d/100000" % number for number in range(50_000)) + b"\n"
        for _ in range(40):
            os.write(1, bars)
            time.sleep(0.02)
    if fault == "exit3":
        sys.exit(3)
    if fault == "exception":
        raise ValueError("the shapes do not match")
    if fault == "cuda":
        raise RuntimeError(
            "CUDA out of memory. Tried to allocate 1.10 GiB. GPU 0 has a total capacity of 23.65 GiB of which 312.50 MiB is free. "
            "Process 123 has 23.30 GiB memory in use."
        )
    if fault == "fill":
        with open("filler", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    if fault == "full":
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")


def save(path: Path, *, torn: bool) -> None:
    header = json.dumps({"lora": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    data = struct.pack("<Q", len(header)) + header + b"\0" * (9 if torn else 16)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
