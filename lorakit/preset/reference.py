"""The preset reference, made from the models: ``python -m lorakit.preset.reference > docs/presets.md``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lorakit.preset.dump import spell
from lorakit.preset.fields import field_argument, field_flag, words
from lorakit.preset.models import Preset
from lorakit.preset.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["reference"]

_INTRO = """\
# Presets

<!-- made by `python -m lorakit.preset.reference > docs/presets.md`; a test holds it to the models -->

A preset is one TOML file that says everything about a bake. What it leaves out has the default given here; what it
says wrong is refused before anything starts, all problems at once, each with its key and line. The smallest one:

```toml
{smallest}```

Relative paths count from the workspace, the nearest folder upwards with a `lorakit.toml`.

## Units

| value | how to write it |
|---|---|
| learning rate | `1e-4`. `0` means that this part is not trained |
| text encoder rate | `5e-5` for both, `[5e-5, 2e-5]` for TE1 and TE2 |
| warmup, decay | `"5%"` or `0.05` of the run, or `"100 steps"`. A bare `100` is refused: it could mean either |
| length | `length.epochs` or `length.steps`, exactly one |
| resolution | `1024`, `[832, 1216]` or `"832x1216"`, width before height; its area bounds every bucket |
| alpha | a number, `"dim"` or `"dim/2"`. The network's scale is alpha / dim |

A whole number may stand where a number is asked for (`noise_offset = 0`). Nothing else is taken for something it is
not: `dim = "16"` and `dim = true` are refused.

## Building on another preset

`extends = "sdxl-character"` at the top of a preset takes that preset's values first. It is a name or a path, with or
without `.toml`, counted from the file that says it, else from the `presets/` folder inside or beside its folder, else
from the workspace's. Parents may have parents. Tables merge key by key, and so do the open tables `network.args`,
`optim.args` and `extra`; everything else is replaced.
Keys that rule each other out replace each other too: a `length.steps` drops an inherited `length.epochs`, a
`dataset.config` drops an inherited `dataset.path` and `dataset.reg_path`, and the other way round.

## --set

Every command that takes a preset takes `--set KEY=VALUE`, any number of times, later ones winning:

    --set network.dim=16   --set optim.te_lr=5e-5/2e-5   --set optim.warmup="100 steps"   --set name=foo

The value is read as TOML where it reads as TOML, else as the text it is. `--set dataset.reg_path=` takes the value
back to its default.

## Where a value comes from

Every value remembers its source: the preset's file and line, a parent's, a `--set`, lorakit's default, or that it was
derived (a drawn seed). `lorakit plan PRESET --why` prints them, and a run folder keeps them in `provenance.json`.

## Codes of problems

| code | problem |
|---|---|
| LK901 | a value that its key does not take |
| LK902 | a key or table that does not exist |
| LK903 | something that must be said and is not |
| LK904 | two keys that rule each other out, in one file |
| LK905 | a parent that is missing or leads in a circle |
| LK906 | a `--set` that is not KEY=VALUE |
| LK907 | a file that cannot be read, or is not TOML |

Problems of values that do not fit together have the other codes; `lorakit check PRESET` finds them.
"""

_SMALLEST = """\
name = "hifumi"
base.model = "models/sd_xl_base_1.0.safetensors"
dataset.path = "datasets/hifumi"
optim.unet_lr = 1e-4
optim.te_lr = 5e-5
length.epochs = 10
"""

_OPEN = {
    "extra": """\
Any other option of the trainer by its name without the dashes: `extra.console_log_level = "INFO"`. A switch is `true`,
an option of several values a list. Names and types are checked against the catalogue of the trainer's options, and an
option that has a key of its own belongs there.
""",
}


def reference() -> str:
    """The whole page as Markdown."""
    parts = [_INTRO.format(smallest=_SMALLEST)]
    top = {name: field for name, field in Preset.model_fields.items() if name not in TABLES and name not in _OPEN}
    parts.append("\n## Top of the file\n\n" + "".join(_rows(Preset, top)))
    for name, model in TABLES.items():
        parts.append(f"\n## [{name}]\n\n{model.__doc__}\n\n" + "".join(_rows(model, model.model_fields)))
    parts += [f"\n## [{name}]\n\n{text}" for name, text in _OPEN.items()]
    return "".join(parts)


def _rows(model: type[BaseModel], fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| key | takes | default | trainer's option | |\n|---|---|---|---|---|\n"
    for name, field in fields.items():
        flag, argument = field_flag(model, name), field_argument(model, name)
        option = f"`{flag}`" if flag else f"`--network_args {argument}=`" if argument else ""
        yield f"| `{name}` | {_cell(words(field))} | {_default(field)} | {option} | {_cell(field.description or '')} |\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    return f"`{spell(field.default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
