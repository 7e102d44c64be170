"""`lorakit sweep add`: more values for a sweep that is there, while it runs or later."""

from __future__ import annotations

from typing import Annotated

import typer

from lorakit.cli.options import Json
from lorakit.cli.sweeps import SweepName, again

__all__ = ["add"]


def add(
    sweep: SweepName,
    *,
    unet_lr: Annotated[str | None, typer.Option(metavar="RATES", help="More rates of the UNet.")] = None,
    te_lr: Annotated[str | None, typer.Option(metavar="RATES", help="More rates of the text encoders.")] = None,
    dim: Annotated[str | None, typer.Option(metavar="DIMS", help="More ranks.")] = None,
    alpha: Annotated[str | None, typer.Option(metavar="ALPHAS", help="More alphas.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=V1,V2", help="More values of any axis; may be repeated.")
    ] = None,
    seed: Annotated[str | None, typer.Option(metavar="SEEDS", help="More seeds.")] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="So many replicates of each point in all.")] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave out trials that cannot be baked, and add the others.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add values to a sweep's axes, or replicates; whoever bakes it now bakes them too.

    A preset, data set or model that changed since the sweep began is refused: its trials could not be compared.
    """
    from lorakit.cli import screen
    from lorakit.cli.options import workspace
    from lorakit.cli.sweep_plan import plan_page
    from lorakit.sweep.adding import widened
    from lorakit.sweep.axes import parse_axes
    from lorakit.sweep.definition import Definition
    from lorakit.sweep.folder import find

    place = workspace()
    folder = find(place, sweep)
    given = {"--unet-lr": unet_lr, "--te-lr": te_lr, "--dim": dim, "--alpha": alpha, "--seed": seed}
    more = Definition.of(parse_axes(given, sets or ()), seeds=seeds)
    found = widened(folder, more, place, skip_refused=skip_refused)
    added = found.trials
    folder.add(added)
    out = screen.console(err=as_json)
    if as_json:
        rows = [{"name": one.resolved.preset.name, "point": dict(one.point), "trial": one.identity} for one in added]
        screen.print_json({"sweep": folder.id, "added": rows, "dispatched": folder.is_dispatched})
        return
    if added:
        screen.put(out, plan_page(found, place, screen.fitting(out)))
    told = screen.count(len(added), "trial") + " added"
    out.print(screen.text((f"sweep {folder.id}", "strong"), f"  {told if added else 'has all of these already'}"))
    following = f"lorakit sweep watch {folder.id}" if folder.is_dispatched or not added else again(folder)
    out.print(screen.text(("next: ", "same"), following))
