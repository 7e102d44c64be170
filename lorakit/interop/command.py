"""A command line of sd-scripts' SDXL LoRA trainer, as people paste it: launcher, script, options, in any of three shells."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from lorakit.errors import UsageError
from lorakit.interop.imported import Note, Reading, Recipe, Told, Unmapped
from lorakit.interop.intake import SECRETS
from lorakit.interop.settle import coerce
from lorakit.interop.words import Shell, Word, shell_of, split
from lorakit.trainers.catalogue import Catalogue

__all__ = ["OptionWords", "is_command", "read_command", "read_options", "recipe_of"]

#: What names the program in a command line; the SDXL one may be written with any path and suffix.
_PROGRAM: Final = re.compile(r"(?i)(?:^|[\\/.])((?:sdxl_)?train_network|builtin)(?:\.py)?$")
_OTHER_PROGRAM: Final = re.compile(
    r"(?i)(?:^|[\\/])((?:flux|sd3|lumina|anima)_train_network|(?:sdxl_)?train(?:_db|_textual_inversion)?|fine_tune)\.py$"
)
#: Options of `accelerate launch` that a preset has keys for.
_LAUNCH: Final = {
    "num_cpu_threads_per_process": "launch.threads",
    "num_processes": "launch.processes",
    "gpu_ids": "launch.gpu_ids",
}
_LAUNCH_SWITCHES: Final = frozenset({"multi_gpu", "cpu", "quiet", "use_deepspeed", "same_network", "m", "module"})


def is_command(text: str) -> bool:
    """Whether the text holds a command line of a kohya trainer."""
    return re.search(r"(?i)train_network|trainers\.builtin|(?:^|\s)--pretrained_model_name_or_path\b", text) is not None


def read_command(text: str, *, shell: Shell | None = None) -> Reading:
    """The recipe of the first training command in ``text``. Raises UsageError when there is none."""
    shell = shell or shell_of(text)
    words, program, at = _command(split(text, shell))
    options = OptionWords.of(words[at:])
    keys, unmapped = _launcher(words[: at - 1] if at else ())
    reading = read_options(options, format_name="command", title=f"a command line of sd-scripts ({shell})")
    sdxl = not program or not re.fullmatch(r"(?i)train_network", program)
    return Reading(
        format=reading.format,
        title=reading.title,
        arguments=reading.arguments,
        keys=keys,
        unmapped=(*unmapped, *reading.unmapped),
        notes=reading.notes,
        recipe=reading.recipe,
        sdxl=sdxl,
    )


def _command(words: Sequence[Word]) -> tuple[list[Word], str, int]:
    """The words of the training command, the program's name, and where its options begin."""
    commands: list[list[Word]] = [[]]
    for word in words:
        if word.end:
            commands.append([])
        else:
            commands[-1].append(word)
    for command in commands:
        for at, word in enumerate(command):
            if match := _OTHER_PROGRAM.search(word.text):
                raise UsageError(
                    f"this command runs {match[1]}.py, which trains something else than an SDXL LoRA",
                    todo="give a command of sdxl_train_network.py",
                )
            if match := _PROGRAM.search(word.text):
                return command, match[1], at + 1
    bare = next((c for c in commands if any(w.text.startswith("--pretrained_model") for w in c)), None)
    if bare is not None:
        return bare, "", next((n for n, word in enumerate(bare) if word.text.startswith("--")), 0)
    raise UsageError(
        "no training command is in this text",
        why="a line with sdxl_train_network.py and its options is looked for",
        todo="paste the whole command, with its continuation lines",
    )


class OptionWords:
    """Options with the words that follow them, in order."""

    def __init__(self, options: Iterable[tuple[str, list[str], int]], stray: Iterable[Word] = ()) -> None:
        self.options = list(options)
        self.stray = list(stray)

    @classmethod
    def of(cls, words: Iterable[Word]) -> OptionWords:
        """Words grouped by the option before them; ``--name=value`` is one of both."""
        options: list[tuple[str, list[str], int]] = []
        stray: list[Word] = []
        for word in words:
            if word.text.startswith("--") and len(word.text) > 2:
                name, equals, value = word.text[2:].partition("=")
                options.append((name, [value] if equals else [], word.line))
            elif options:
                options[-1][1].append(word.text)
            else:
                stray.append(word)
        return cls(options, stray)


def read_options(options: OptionWords, *, format_name: str, title: str) -> Reading:
    """Options of sdxl_train_network.py as told arguments; what it would not take is unmapped with the reason."""
    flags = Catalogue.load().by_dest()
    told: dict[str, Told] = {}
    unmapped = [Unmapped(word.text, word.text, "it belongs to no option", word.line) for word in options.stray]
    notes: list[Note] = []
    for name, words, line in options.options:
        text = " ".join([f"--{name}", *words])
        dest = _dest(name, flags)
        if dest is None:
            near = difflib.get_close_matches(name, flags, 1)
            hint = f"; --{near[0]} is meant?" if near else ""
            unmapped.append(Unmapped(name, text, f"sdxl_train_network.py has no such option{hint}", line))
            continue
        if dest in SECRETS:
            unmapped.append(Unmapped(dest, f"--{dest} •••", "a secret: keep it in the environment", line))
            continue
        flag = flags[dest]
        taken = words if flag.nargs == "*" else [] if flag.type == "bool" else words[:1]
        unmapped += [
            Unmapped(word, word, f"it stands after --{name}, which does not take it", line)
            for word in words[len(taken) :]
        ]
        raw: Any = taken if flag.nargs == "*" else True if flag.type == "bool" else next(iter(taken), None)
        try:
            value = coerce(flag, raw, command_line=True)
        except ValueError as error:
            unmapped.append(Unmapped(dest, text, str(error), line))
            continue
        if dest in told and told[dest].value != value:
            notes.append(Note(f"--{dest} is given twice: {told[dest].text}, then {text}", "the last one counts"))
        told[dest] = Told(value, text=text, line=line)
    return Reading(format_name, title, told, unmapped=tuple(unmapped), notes=tuple(notes), recipe=recipe_of(told))


def recipe_of(told: dict[str, Told]) -> Recipe:
    """Length and warmup of sd-scripts' own arguments."""

    def value(name: str) -> Any:
        return told[name].value if name in told else None

    epochs, steps, warmup = value("max_train_epochs"), value("max_train_steps"), value("lr_warmup_steps")
    return Recipe(
        epochs=epochs,
        steps=steps if epochs is None else None,
        warmup_ratio=warmup if isinstance(warmup, float) and warmup else None,
        warmup_steps=warmup if isinstance(warmup, int) and warmup else None,
        rounding="floor",
        emitted={"max_train_steps": steps} if epochs is not None and steps is not None else {},
    )


def _dest(name: str, flags: Iterable[str]) -> str | None:
    """The option meant by a name; the trainer takes unambiguous beginnings too."""
    known = set(flags)
    if name in known:
        return name
    begun = [one for one in known if one.startswith(name)]
    return begun[0] if len(begun) == 1 and len(name) > 2 else None


def _launcher(words: Sequence[Word]) -> tuple[dict[str, Told], list[Unmapped]]:
    """What stands before the script: the launcher's options that a preset has keys for, and the rest of them."""
    keys: dict[str, Told] = {}
    unmapped: list[Unmapped] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.text.startswith("--"):
            continue
        name, equals, value = word.text[2:].partition("=")
        if not equals and name not in _LAUNCH_SWITCHES and at < len(words) and not words[at].text.startswith("-"):
            value = words[at].text
            at += 1
        text = f"--{name} {value}".strip()
        if (key := _LAUNCH.get(name)) and value:
            plain: Any = value if key == "launch.gpu_ids" else int(value) if value.isdigit() else None
            if key == "launch.gpu_ids" and value == "all":
                plain = None
            if plain is not None:
                keys[key] = Told(plain, text=text, line=word.line)
                continue
        unmapped.append(Unmapped(name, text, "lorakit writes the launcher's configuration itself", word.line))
    return keys, unmapped
