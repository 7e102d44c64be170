"""The list of commands. Each family has a file; what a command needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lorakit._version import __version__
from lorakit.cli import (
    baking,
    caching,
    comparing,
    continuing,
    doctor,
    importing,
    init,
    keeping,
    listing,
    moving,
    presets,
    runs,
    sweeping,
    sweeps,
    trainer,
    weighing,
)
from lorakit.cli.options import EVERYWHERE

__all__ = ["app", "command"]


def _settled(params: list[Any]) -> list[Any]:
    # A flag that is not given has no value, and typer loads pydantic to find that nothing is no bool. Given one, it does
    # not, and `lorakit ls` starts in half the time.
    for param in params:
        if getattr(param, "is_flag", False) and param.default is None:
            param.default = False
        # The same for words: they are taken as they are, and a list of filters needs no models.
        if getattr(getattr(param, "type_descriptor", None), "annotation", None) in (str, list[str]):
            param._runtime_param = _AsTyped()
    return params


class _AsTyped:
    """In place of typer's conversion of one word or several, which has nothing to convert."""

    def coerce(self, value: Any, *, param: Any, ctx: Any) -> Any:
        del ctx
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        return value if isinstance(value, str) else list(value)


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _settled(super().get_params(ctx))


class _SweepGroup(_Group):
    """`lorakit sweep PRESET --unet-lr …` is the sentence people type first: without a sub-command it is `sweep run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "-h", "--help"}
        return super().parse_args(ctx, args if args and args[0] in known else ["run", *args])


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _settled(super().get_params(ctx))


app = typer.Typer(
    name="lorakit",
    cls=_Group,
    rich_markup_mode=None,  # plain help: quick to print, the same in a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"lorakit {__version__}")
        raise typer.Exit


@app.callback(epilog=f"Start here: lorakit init, lorakit plan quickstart, lorakit bake quickstart. {EVERYWHERE}")
def lorakit(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """A lab notebook that runs your bakes: typed presets, exact commands, sealed run folders."""
    del version


for function in (
    init.init,
    presets.check,
    presets.plan,
    presets.render,
    baking.bake,
    baking.watch,
    baking.stop,
    continuing.resume,
    continuing.rerun,
    listing.ls,
    runs.show,
    runs.logs,
    runs.verify,
    continuing.repair,
    keeping.note,
    keeping.tag,
    keeping.rm,
    keeping.restore,
    keeping.purge,
    moving.export,
    moving.import_run,
    comparing.compare,
    weighing.weights,
    doctor.doctor,
):
    app.command(cls=_Command, epilog=EVERYWHERE)(function)
app.command("import", cls=_Command, epilog=EVERYWHERE)(importing.import_recipe)

grid = typer.Typer(name="sweep", cls=_SweepGroup, help=sweeps.HELP, rich_markup_mode=None, epilog=EVERYWHERE)
for member in (sweeping.run, sweeps.status, sweeps.watch, sweeps.report, sweeps.pause, sweeps.go, sweeps.cancel):
    grid.command(cls=_Command, epilog=EVERYWHERE)(member)
app.add_typer(grid)

family = typer.Typer(name="trainer", cls=_Group, help=trainer.HELP, rich_markup_mode=None, epilog=EVERYWHERE)
for function in (trainer.install, trainer.status, trainer.catalogue):
    family.command(cls=_Command, epilog=EVERYWHERE)(function)
app.add_typer(family)

caches = typer.Typer(name="cache", cls=_Group, help=caching.HELP, rich_markup_mode=None, epilog=EVERYWHERE)
for function in (caching.ls, caching.clean):
    caches.command(cls=_Command, epilog=EVERYWHERE)(function)
app.add_typer(caches)


def command() -> Any:
    """The command with its sub-commands, as typer builds it: called with args, it runs."""
    return typer.main.get_command(app)
