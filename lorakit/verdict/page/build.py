"""Puts a page together: what it shows as JSON, the plotting script, style and program, all in one file."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from lorakit._version import __version__
from lorakit.archive.run import Run, read_record
from lorakit.evidence.curves import Series, thinned
from lorakit.evidence.measured import WeightSummary
from lorakit.verdict.compare import Comparison, Row, side_by_side
from lorakit.verdict.page import plotly
from lorakit.verdict.page.pictures import embedded, samples_of, width_for
from lorakit.verdict.page.pictures import thinned as fewer
from lorakit.verdict.results import RESULTS
from lorakit.verdict.sides import Side

__all__ = ["compare_page", "report_page"]

#: Points of all curves together, and of one at least and at most: what a browser draws in a blink.
_POINTS, _FEWEST, _MOST = 240_000, 60, 4000
#: Curves with these beginnings have a plot of their own.
_PANELS: Final = ("loss", "validation", "lr.", "grad.")
#: Names of the pictures of analysis/ that are part of a report, and what they are called there.
_SHEETS: Final = {"contact.png": "Contact sheet"}
#: Findings of `lorakit diagnose`, in analysis/.
_DIAGNOSIS: Final = "diagnosis.json"


def compare_page(
    found: Comparison,
    folder: Path,
    *,
    axes: Sequence[str] | None = None,
    points: Mapping[Path, Mapping[str, str]] | None = None,
) -> str:
    """The page of a comparison, to be written into ``folder`` (links are relative to it).

    ``axes`` are a sweep's keys and ``points`` where each run stands on them, by the run's folder. Raises UsageError without plotly.
    """
    names = ", ".join(side.label for side in found.sides[:4]) + ("…" if len(found.sides) > 4 else "")
    shown = _page(found, folder, kind="compare", title=f"{names} compared")
    if axes:
        placed = [dict((points or {}).get(side.path.resolve(), {})) for side in found.sides]
        shown["sweep"] = {"axes": [key for key in axes if any(key in point for point in placed)], "points": placed}
    return _html(shown)


def report_page(run: Run, folder: Path) -> str:
    """The page of one run, to be written into ``folder``. Raises UsageError without plotly, ArchiveError without a preset."""
    side = Side("run", run.short, run.path)
    found = side_by_side([side])
    shown = _page(found, folder, kind="report", title=f"{side.name} {run.short}")
    shown["growth"] = [_weights(one) for one in side.weights(every=side.weight_bytes < 1_000_000_000).measured]
    shown["findings"] = _findings(run)
    healthy = (read_record(run.analysis / _DIAGNOSIS) or {}).get("healthy")
    shown["healthy"] = list(map(str, healthy)) if isinstance(healthy, list) else []
    shown["sheets"] = [
        {"title": title, "src": source, "href": _link(run.analysis / name, folder)}
        for name, title in _SHEETS.items()
        if (run.analysis / name).is_file() and (source := embedded(run.analysis / name, 1200))
    ]
    return _html(shown)


def _page(found: Comparison, folder: Path, *, kind: str, title: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "title": title,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "lorakit": __version__,
        "sides": [_side(side, folder) for side in found.sides],
        "rows": [
            *(_row(row, "setting") for row in found.settings),
            *(_row(row, "input") for row in found.inputs),
            *(_result(row) for row in found.results if any(value is not None for value in row.values)),
            *(_row(row, "same") for row in found.alike),
        ],
        "warnings": list(found.warnings),
        "datasets": [
            {
                "added": one.added,
                "removed": one.removed,
                "changed": one.changed,
                "recaptioned": [vars(picture) for picture in one.recaptioned],
            }
            for one in found.datasets
        ],
        "curves": _curves(found.sides),
        "weights": [None if one is None else _weights(one) for one in found.weights],
        "samples": _samples(found.sides, folder),
    }


def _side(side: Side, folder: Path) -> dict[str, Any]:
    state = side.state
    return {
        "label": side.label,
        "name": side.name,
        "kind": side.kind,
        "id": side.run.id if side.run else str(side.path),
        "href": _link(side.path, folder),
        "state": state.status.value if state else {"file": "LoRA file", "logs": "log folder"}[side.kind],
        "message": state.message if state else "",
        "tags": list(state.tags) if state else [],
    }


def _link(path: Path, folder: Path) -> str:
    """A link from a page in ``folder``: relative, so that an archive may move as a whole."""
    return quote(
        os.path.relpath(os.path.abspath(path), os.path.abspath(folder)).replace(os.sep, "/"), errors="surrogateescape"
    )


def _row(row: Row, group: str) -> dict[str, Any]:
    values = [
        value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None for value in row.values
    ]
    numeric = all(isinstance(value, (int, float)) for value in values if value is not None)
    sort = values if numeric and group != "input" else list(row.shown)
    return {"group": group, "key": row.key, "shown": list(row.shown), "sort": sort, "origins": list(row.origins)}


def _result(row: Row) -> dict[str, Any]:
    title, unit = RESULTS[row.key]
    return {"group": "result", "key": row.key, "title": title, "unit": unit, "sort": list(row.values)}


def _curves(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Each side's curves; read one side at a time and thinned at once, so that hundreds of runs fit into memory."""
    found = []
    for side in sides:
        curves = side.curves()
        most = min(_MOST, max(_FEWEST, _POINTS // (len(sides) * max(len(curves.series), 1))))
        named = {name: one for name, one in curves.series.items() if name.startswith(_PANELS)}
        found.append(
            {
                "source": curves.source,
                "complaint": curves.complaint,
                "series": {name: _series(series, most) for name, series in named.items()},
            }
        )
    return found


def _series(series: Series, most: int) -> dict[str, Any]:
    few = thinned(series, most)
    per_point = len(series.values) / max(len(few.values), 1)
    columns = {"step": few.steps, "epoch": few.epochs, "time": few.seconds, "y": few.values}
    return {**{name: list(column) for name, column in columns.items()}, "mean_of": round(per_point, 1)}


def _weights(summary: WeightSummary) -> dict[str, Any]:
    parts = {
        name: {
            "norm": part.norm,
            "share": part.share,
            "dead": part.dead,
            "modules": part.modules,
            "blocks": dict(part.blocks),
        }
        for name, part in summary.parts.items()
    }
    return {"file": summary.file, "norm": summary.norm, "parts": parts}


def _samples(sides: Sequence[Side], folder: Path) -> list[list[dict[str, Any]]]:
    kept = fewer([samples_of(side.run) if side.run else () for side in sides])
    width = width_for(sum(map(len, kept)))
    return [
        [
            {
                "prompt": one.prompt,
                "text": one.text,
                "step": one.step,
                "epoch": one.epoch,
                "href": _link(one.path, folder),
                "src": embedded(one.path, width) if width else None,
            }
            for one in some
        ]
        for some in kept
    ]


def _findings(run: Run) -> list[dict[str, Any]]:
    """What `lorakit diagnose` found, as far as its record can be read."""
    found = (read_record(run.analysis / _DIAGNOSIS) or {}).get("findings")
    return [
        {
            "code": str(one.get("code", "")),
            "title": str(one.get("title", "")),
            "confidence": str(one.get("confidence", "")),
            "evidence": [
                {key: str(proof.get(key, "")) for key in ("text", "value", "source")}
                for proof in one.get("evidence") or ()
                if isinstance(proof, dict)
            ],
            "advice": [str(advice) for advice in one.get("advice") or ()],
        }
        for one in (found if isinstance(found, list) else ())
        if isinstance(one, dict)
    ]


def _html(shown: Mapping[str, Any]) -> str:
    # What comes from files is in base64, whose letters end no script and no attribute; only the title is text.
    parts = {
        name: files(__package__).joinpath(name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "page.js")
    }
    data = json.dumps(_short(shown), separators=(",", ":"), allow_nan=False, default=list).encode("utf-8", "replace")
    filled = {
        "title": html.escape(_valid(str(shown["title"]))),
        "style": parts["page.css"],
        "data": _packed(data),
        "plotly": _packed(plotly.script()),
        "program": parts["page.js"],
    }
    # One pass: what is put in is never looked at for marks.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: filled[mark[1]], parts["page.html"])


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def _valid(text: str) -> str:
    """Text that can be written as UTF-8 whatever a file was called."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _short(value: Any) -> Any:
    """The same in six digits, and null for what JSON has no word for."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, str):
        return _valid(value)
    if isinstance(value, Mapping):
        return {_short(key): _short(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(item) for item in value]
    return value
