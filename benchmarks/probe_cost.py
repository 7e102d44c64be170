"""What the probe costs a step: its own share of the main thread's processor time, within one training of the real sd-scripts.

``PYTHON-OF-SD-SCRIPTS benchmarks/probe_cost.py [fit_widths.py|sdxl_train_network.py] arguments…`` trains as the probe would and prints the share
at the end. Processor time of one thread says the same beside other work; with OMP_NUM_THREADS=1 it is all there is.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROBE = Path(__file__).parents[1] / "lorakit" / "trainers" / "sd_scripts" / "probe.py"
#: What the probe does in a step, beside calling the trainer: gradient norms and their curves, and telling the step.
NORMS, TELLING = ("measure", "name_curves"), ("end_batch", "tell_early")


def main() -> None:
    """Train, and print milliseconds and the share."""
    spec = importlib.util.spec_from_file_location("probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    costs: list[tuple[float, float, float]] = []  # after each step, processor time so far: whole, norms, telling
    spent = dict.fromkeys((*NORMS, *TELLING), 0.0)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            began = time.thread_time()
            result = work(*arguments, **keywords)
            spent[name] += time.thread_time() - began
            if name == "end_batch":
                costs.append((time.thread_time(), *(sum(spent[part] for part in parts) for parts in (NORMS, TELLING))))
            return result

        return run

    for name in spent:
        setattr(probe.Probe, name, timed(name, getattr(probe.Probe, name)))
    try:
        probe.main()
    finally:
        if len(costs) > 2:  # the first step warms up
            steps = len(costs) - 1
            whole, norms, telling = (
                (last - first) / steps * 1e3 for first, last in zip(costs[0], costs[-1], strict=True)
            )
            print(
                f"{steps} steps of {whole:.1f} ms: gradient norms {norms:.2f} ms ({norms / whole:.2%}), telling {telling:.2f} ms"
            )


if __name__ == "__main__":
    sys.exit(main())
