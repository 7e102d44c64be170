"""Trials of a sweep that share a base model are baked several to a process: which can, and how they find together.

To the scheduler each trial has a place of its own, as when several bake side by side. Trials that may share a process wait for each
other here before they are prepared; a GPU, or the machine, has one pack at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lorakit.errors import LorakitError, Stopped

if TYPE_CHECKING:
    from lorakit.archive.run import Run
    from lorakit.bake.bake import OnUpdate
    from lorakit.preset.files import ResolvedPreset
    from lorakit.preset.models import Preset
    from lorakit.sweep.pack_memory import PackPlan
    from lorakit.workspace import Workspace

__all__ = ["Packer", "pack_key", "plan_of"]

#: Seconds without a further trial after which a pack waits for no more.
_SETTLED: Final = 1.0
_TICK: Final = 0.1
#: What one process has once: tables of a preset in which its trials agree.
_SHARED: Final = ("base", "dataset", "precision", "memory", "launch", "trainer", "extra")


def pack_key(preset: Preset) -> str | None:
    """Equal for presets whose trainings can share a process; None for one that needs its own, with several ranks."""
    if preset.launch.processes > 1:
        return None
    return repr([getattr(preset, name) for name in _SHARED])


def plan_of(
    resolved: ResolvedPreset, plan: Any, workspace: Workspace, free: Mapping[str, Any], *, trials: int | None = None
) -> PackPlan:
    """The planned size of a pack of trials like this one; ``free`` as launch.memory.free_memory tells it."""
    from lorakit.launch.environment import has_gpu
    from lorakit.sweep.pack_memory import MOST, Elements, Need, fit, room

    preset = resolved.preset
    gpus = [] if preset.launch.cpu or not has_gpu() else list(free.get("gpus") or ())
    if gpus:
        available = room(min(card["total"] - card["used"] for card in gpus), gpu=True)
    else:
        available = room(int(free.get("available") or 0), gpu=False)
    need = Need.of(preset, plan, Elements.of(workspace.resolve(preset.base.model)))
    return fit(need, available, batch=preset.length.batch_size, most=MOST, trials=trials)


@dataclass
class _Pack:
    """Trials that come together: ``arrived`` of them, of which ``over`` are done with it, however that was."""

    place: str
    last: float = field(default_factory=time.monotonic)
    arrived: int = 0
    called: bool = False
    prepared: list[Run] = field(default_factory=list)
    failed: int = 0
    started: bool = False
    error: LorakitError | None = None
    over: int = 0


class Packer:
    """Bakes trials in packs of at most ``trials``; ``folder`` keeps what their common processes leave.

    ``stopped`` says whether the sweep was asked to end: trials that still wait for their pack are not begun then.
    """

    def __init__(self, folder: Path, planned: PackPlan, stopped: Callable[[], bool] = lambda: False) -> None:
        self._folder = folder
        self._planned = planned
        self._stopped = stopped
        self._changed = threading.Condition()
        self._gathering: dict[str, _Pack] = {}
        self._busy: set[str] = set()

    def bake(
        self,
        resolved: ResolvedPreset,
        workspace: Workspace,
        *,
        lineage: dict[str, Any] | None = None,
        argv: Sequence[str] = (),
        on_update: OnUpdate | None = None,
    ) -> Run:
        """Bake one trial to its end, together with others that call this at the same time from threads of their own.

        Raises what :func:`lorakit.bake.bake.bake` raises, and Stopped when the sweep is stopped before the trial begins.
        """
        from lorakit.bake.bake import follow
        from lorakit.bake.prepare import prepare
        from lorakit.trainers.choose import choose

        key = pack_key(resolved.preset) if choose(resolved.preset, workspace).kind == "builtin" else None
        pack, leads = self._join(key, resolved.preset.launch.gpu_ids or "")
        try:
            self._wait_for_call(pack, leads=leads)
            run: Run | None = None
            try:
                run = prepare(resolved, workspace, lineage=lineage, argv=argv)
                if on_update is not None:
                    on_update(run, ())
            finally:
                self._tell_prepared(pack, run)
                if leads:
                    self._start(pack)
            self._wait_for_start(pack)
            follow(run, on_update)
            return run
        finally:
            self._leave(pack)

    def _join(self, key: str | None, place: str) -> tuple[_Pack, bool]:
        with self._changed:
            pack = self._gathering.get(key) if key is not None else None
            leads = pack is None
            if pack is None:
                pack = _Pack(place)
                if key is not None:
                    self._gathering[key] = pack
            pack.arrived += 1
            pack.last = time.monotonic()
            if pack.arrived >= self._planned.trials or key is None:
                self._close(pack)
            self._changed.notify_all()
            return pack, leads

    def _close(self, pack: _Pack) -> None:
        """Nobody else comes in."""
        for key in [key for key, known in self._gathering.items() if known is pack]:
            del self._gathering[key]

    def _wait_for_call(self, pack: _Pack, *, leads: bool) -> None:
        """Until all have come and the place is free."""
        with self._changed:
            while not pack.called:
                if self._stopped():
                    self._close(pack)
                    raise Stopped("the sweep was stopped before this trial began")
                if leads and self._is_due(pack):
                    self._close(pack)
                    self._busy.add(pack.place)
                    pack.called = True
                    self._changed.notify_all()
                    return
                self._changed.wait(_TICK)

    def _is_due(self, pack: _Pack) -> bool:
        closed = pack not in self._gathering.values()
        return pack.place not in self._busy and (closed or time.monotonic() - pack.last > _SETTLED)

    def _tell_prepared(self, pack: _Pack, run: Run | None) -> None:
        with self._changed:
            if run is None:
                pack.failed += 1
            else:
                pack.prepared.append(run)
            self._changed.notify_all()

    def _start(self, pack: _Pack) -> None:
        """The first that came starts them all, when each is prepared or has failed to be."""
        from lorakit.bake.bake import start
        from lorakit.bake.pack import start_pack

        with self._changed:
            self._changed.wait_for(lambda: len(pack.prepared) + pack.failed == pack.arrived)
        try:
            if len(pack.prepared) > 1:
                start_pack(sorted(pack.prepared, key=lambda run: run.id), self._folder, rows=self._planned.rows)
            elif pack.prepared:
                start(pack.prepared[0])
        except LorakitError as error:
            pack.error = error
        with self._changed:
            pack.started = True
            self._changed.notify_all()

    def _wait_for_start(self, pack: _Pack) -> None:
        with self._changed:
            self._changed.wait_for(lambda: pack.started)
        if pack.error is not None:
            raise pack.error

    def _leave(self, pack: _Pack) -> None:
        """The last one to leave makes room for the next pack."""
        with self._changed:
            if not pack.called:
                pack.arrived -= 1
            else:
                pack.over += 1
                if pack.over == pack.arrived:
                    self._busy.discard(pack.place)
            self._changed.notify_all()
