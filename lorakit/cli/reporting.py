"""`lorakit report`: a run as a page; `lorakit board`: runs in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lorakit.cli.options import Json, RunName, complete_run, workspace

if TYPE_CHECKING:
    from lorakit.verdict.sides import Side

__all__ = ["board", "report"]

#: Without a choice: as many as TensorBoard shows without trouble.
_NEWEST: Final = 50


def report(
    run: RunName,
    *,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write it there instead of the run's analysis/report.html."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's page: curves, samples, weights, diagnosis.

    One file that needs no network. A bake writes it by itself when it ends; this writes it anew, for instance after `lorakit diagnose`.
    """
    from lorakit.archive.run import open_run
    from lorakit.cli import screen
    from lorakit.verdict.report import write_report

    written = write_report(open_run(workspace().runs, run), html)
    if as_json:
        screen.print_json({"page": str(written), "bytes": written.stat().st_size})
        return
    screen.console().print(
        screen.text(("✓ ", "done"), f"{written}  {screen.size(written.stat().st_size)}, one file, no network")
    )


def board(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...", autocompletion=complete_run, help="Runs or log folders; the newest 50 runs if not given."
        ),
    ] = None,
    *,
    sweep: Annotated[
        str | None, typer.Option("--sweep", metavar="SWEEP", help="All runs of a sweep, by its id or `latest`.")
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="Where it listens; 0: any that is free.")] = 6006,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="HOST", help="Whom it listens to; 0.0.0.0: everybody who can reach this machine."
        ),
    ] = "localhost",
    folder: Annotated[
        Path | None,
        typer.Option("--print", metavar="DIR", help="Only make the folder DIR and print TensorBoard's line."),
    ] = None,
) -> None:
    """Look at runs in TensorBoard, under short names.

    With a table of what they were trained with. It is given links, so that runs that train are seen as they grow; Ctrl-C ends it and leaves nothing behind.
    """
    import shlex
    import sys
    import tempfile

    from lorakit.cli import screen
    from lorakit.errors import DiskError, UsageError
    from lorakit.verdict.board import lay_out

    require_tensorboard()
    chosen = _chosen(list(runs or ()), sweep)
    out = screen.console()
    if folder is not None and folder.exists():
        raise UsageError(f"{folder} is there already", todo="name a folder that is not there yet")
    with tempfile.TemporaryDirectory(prefix="lorakit-board-") as temporary:
        target = Path(temporary) / "runs" if folder is None else folder
        try:
            made = lay_out(chosen, target)
        except OSError as error:
            raise DiskError(f"{target} cannot be written", why=error.strerror or str(error)) from error
        line = [sys.executable, "-m", "tensorboard.main", "--logdir", str(target), "--port", str(port), "--host", host]
        if folder is not None:
            print(shlex.join(line))
            return
        named = ", ".join([*made][:6]) + (f" and {len(made) - 6} more" if len(made) > 6 else "")
        out.print(screen.text((f"{screen.count(len(made), 'run')}  ", "strong"), named))
        _serve(line)


def require_tensorboard() -> None:
    """Raise UsageError, saying what to install, where there is no TensorBoard."""
    from importlib.util import find_spec

    from lorakit.errors import UsageError

    if find_spec("tensorboard") is None:
        raise UsageError(
            "TensorBoard is not installed",
            todo='pip install "lorakit[builtin]" or tensorboard alone; lorakit compare --html needs neither',
        )


def _chosen(words: list[str], sweep: str | None) -> list[Side]:
    from lorakit.archive.run import list_runs
    from lorakit.errors import ArchiveError
    from lorakit.sweep.folder import find
    from lorakit.sweep.standing import standing
    from lorakit.verdict.sides import side_of, sides

    place = workspace()
    found = [side_of(word, place.runs) for word in words]
    if sweep is not None:
        now = standing(find(place, sweep), place.runs)
        found += [side_of(str(one.run.path), place.runs) for one in now.trials if one.run is not None]
    if not words and sweep is None:
        found = [side_of(str(run.path), place.runs) for run in list_runs(place.runs)[-_NEWEST:]]
    if not found:
        raise ArchiveError("there are no runs to show", todo="lorakit bake PRESET makes one")
    return list(sides(found, least=1))


def _serve(line: list[str]) -> None:
    """Run TensorBoard until it ends or somebody asks for it; it is gone when this returns."""
    import contextlib
    import signal
    import subprocess

    from lorakit.cli import screen
    from lorakit.errors import TrainerError

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    # A session of its own: Ctrl-C reaches this process alone, which ends it in order.
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    told: list[str] = []
    code = None
    try:
        for said in process.stderr or ():
            told.append(said)
            if "http://" in said:
                address = said[said.index("http://") :].split()[0]
                screen.console().print(screen.text(("look   ", "done"), f"{address}   Ctrl-C ends it"))
        code = process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
        signal.signal(signal.SIGTERM, before)
    if code:
        raise TrainerError(
            "TensorBoard did not start", why="".join(told[-3:]).strip(), todo="--port 0 takes any free port"
        )
