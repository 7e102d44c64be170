"""The program: ``accelerate launch --config_file F -m lorakit.trainers.builtin <sdxl_train_network.py arguments>``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lorakit import protocol
from lorakit.errors import LorakitError, Stopped
from lorakit.trainers.builtin.ends import end_with, explained, told
from lorakit.trainers.builtin.monitor import Monitor
from lorakit.trainers.builtin.options import parse
from lorakit.trainers.builtin.stopping import Stopper

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the arguments say; returns the exit code. Errors are told on stderr and in the run protocol."""
    monitor = Monitor(talks=os.environ.get("RANK", "0") == "0")
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        with Stopper() as stopper:
            from lorakit.trainers.builtin.run import train

            train(options, monitor, stopper)
    except Stopped as stopped:
        monitor.say(stopped.what)
        monitor.end("stopped", stopped.what)
        return 0
    except LorakitError as error:
        return _tell(error, monitor)
    except KeyboardInterrupt:
        monitor.end("stopped", "interrupted")
        return Stopped.exit_code
    except Exception as error:
        if known := explained(error):
            return _tell(known, monitor)
        # A bug: the log gets the traceback, the protocol the sentence.
        monitor.end("error", f"{type(error).__name__}: {error}")
        raise
    finally:
        monitor.close()
    return 0


def _tell(error: LorakitError, monitor: Monitor) -> int:
    print(told(error), file=sys.stderr, flush=True)
    if not monitor.talks:  # the first process will only see that this one is gone
        protocol.Writer.from_env().write("warn", message=f"process {os.environ.get('RANK')}: {error.what}")
    end_with(error, monitor)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
