"""The list of commands. Each family has a file; a file is imported when one of its commands is asked for, what it needs when it runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from lorakit._version import __version__
from lorakit.cli.options import EVERYWHERE

__all__ = ["command"]

#: Where each command is, in the order of the help: its file, and its function where that has another name.
_COMMANDS: Final = {
    "init": "init",
    "check": "presets",
    "plan": "presets",
    "render": "presets",
    "bake": "baking",
    "watch": "baking",
    "stop": "baking",
    "resume": "continuing",
    "rerun": "continuing",
    "ls": "listing",
    "show": "runs",
    "logs": "runs",
    "verify": "runs",
    "repair": "continuing",
    "note": "keeping",
    "tag": "keeping",
    "rm": "keeping",
    "restore": "keeping",
    "purge": "keeping",
    "export": "moving",
    "import-run": "moving:import_run",
    "compare": "comparing",
    "report": "reporting",
    "board": "reporting",
    "weights": "weighing",
    "embeddings": "embedding",
    "sheet": "sheeting",
    "diagnose": "diagnosing",
    "doctor": "doctor",
    "import": "importing:import_recipe",
    "export-config": "importing:export_config",
}
#: Families of commands, each with the file that describes it.
_FAMILIES: Final = {
    "sweep": (
        "sweeps",
        {
            "run": "sweeping",
            "status": "sweeps",
            "watch": "sweeps",
            "report": "sweep_report",
            "noise": "sweep_report",
            "add": "sweep_adding",
            **dict.fromkeys(("pause", "go", "cancel"), "sweeps"),
        },
    ),
    "queue": (
        "queueing",
        dict.fromkeys(("add", "start", "pause", "ls", "watch", "rm", "first", "retry"), "queueing"),
    ),
    "trainer": ("trainer", dict.fromkeys(("install", "status", "catalogue"), "trainer")),
    "dataset": (
        "desk",
        {
            "check": "desk",
            **dict.fromkeys(("tags", "add", "remove", "rename", "dedupe", "captions", "undo"), "desk_edits"),
            "diff": "desk_diff",
        },
    ),
    "cache": ("caching", dict.fromkeys(("ls", "clean"), "caching")),
}


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


def command(words: Sequence[str] = ()) -> Any:
    """The command with its sub-commands, as typer builds it: called with args, it runs.

    Where ``words``, the line, begin with a command, that one alone is built: to build all of them takes longer than most run.
    """
    chosen = {words[0]} if words and words[0] in {*_COMMANDS, *_FAMILIES} else {*_COMMANDS, *_FAMILIES}
    app = typer.Typer(
        name="lorakit",
        cls=_Group,
        rich_markup_mode=None,  # plain help: quick to print, the same in a pipe
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(epilog=f"Start here: lorakit init, lorakit plan quickstart, lorakit bake quickstart. {EVERYWHERE}")(
        lorakit
    )
    _add(app, {name: place for name, place in _COMMANDS.items() if name in chosen}.items())
    for name, (place, members) in _FAMILIES.items():
        if name in chosen:
            group = _SweepGroup if name == "sweep" else _Group
            text = importlib.import_module(f"lorakit.cli.{place}").HELP
            family = typer.Typer(name=name, cls=group, help=text, rich_markup_mode=None, epilog=EVERYWHERE)
            _add(family, members.items())
            app.add_typer(family)
    return typer.main.get_command(app)


def _add(app: typer.Typer, places: Iterable[tuple[str, str]]) -> None:
    for name, place in places:
        file, _, function = place.partition(":")
        found = getattr(importlib.import_module(f"lorakit.cli.{file}"), function or name)
        app.command(name, cls=_Command, epilog=EVERYWHERE)(found)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"lorakit {__version__}")
        raise typer.Exit


def lorakit(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """A lab notebook that runs your bakes: typed presets, exact commands, sealed run folders."""
    del version
