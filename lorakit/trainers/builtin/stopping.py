"""Ending early and cleanly: the stop file of the run protocol, SIGTERM and SIGINT."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from lorakit import protocol

__all__ = ["Stopper"]


class Stopper:
    """Remembers that an end was asked for. While entered, the first SIGTERM or SIGINT asks; a second one acts at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals (only the main thread can)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._asked = True
        self._restore()
        print(f"{signal.Signals(number).name}: ending after this step", flush=True)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def asked(self) -> bool:
        """Whether the training should end after the current step."""
        return self._asked or protocol.stop_requested()
