"""Hypothesis strategies for whole presets, made from the models so that a new key is covered as soon as it exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from lorakit.preset.fields import choices, words
from lorakit.preset.layers import nest
from lorakit.preset.models import Preset
from lorakit.preset.schema import EXCLUSIVE, fields, is_open

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hypothesis.strategies import DrawFn, SearchStrategy
    from pydantic.fields import FieldInfo

    from lorakit.preset.toml_lines import KeyPath

__all__ = ["plain_values", "preset_data", "presets"]

_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_words = _texts.filter(lambda text: bool(text.strip()))
_lines = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/\\"), max_size=12)
_names = _lines.filter(lambda text: bool(text.strip()) and text not in {".", ".."})
_positive = st.integers(1, 2**31 - 1)
_rates = st.sampled_from([0, 1e-4, 5e-5, 2.5e-4]) | st.floats(0, 1, allow_subnormal=True)
_sides = st.integers(64, 16384)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_scalars = _texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _finite
_arguments = _scalars | st.lists(_scalars, max_size=3)
_shares = st.floats(0, 1, exclude_max=True)
_block_lists = st.lists(st.integers(0, 9) | st.floats(0, 9), min_size=1, max_size=3)
_keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,11}", fullmatch=True)

_BY_WORDS: Mapping[str, SearchStrategy[Any]] = {
    "true or false": st.booleans(),
    "a text": _texts,
    "a path": _words,
    "a text that is not empty": _words,
    "a text of at least one character": _texts.filter(bool),
    "a text of one line, without slashes": _names,
    "a whole number of at least 1": st.integers(1, 9) | _positive,
    'a time with its unit: "30m", "90s", "1h30m"': st.sampled_from(["30m", "90s", "1h30m", "2d"]),
    "a whole number of at least 0": st.integers(0, 9) | _positive,
    "a whole number from 0 to 4294967295": st.integers(0, 2**32 - 1),
    "a timestep from 0 to 999": st.integers(0, 999),
    "a timestep from 1 to 1000": st.integers(1, 1000),
    "a number": _finite | st.integers(-5, 5),
    "a number of at least 0": st.floats(0, allow_infinity=False) | st.integers(0, 9),
    "a number from 0 to 1": st.floats(0, 1) | st.integers(0, 1),
    "a number above 1": st.floats(1.01, 1e6),
    "a learning rate such as 1e-4; 0: not trained": _rates,
    "a learning rate, or a pair [TE1, TE2]": _rates | st.lists(_rates, min_size=2, max_size=2),
    'a share of the run ("5%", 0.05) or steps ("100 steps")': (
        _shares | st.integers(0, 10**6).map("{} steps".format) | _shares.map(lambda share: f"{share * 100!r}%")
    ).filter(lambda value: value != "100.0%"),
    "pixels: 1024, [832, 1216] or 832x1216": _sides | st.lists(_sides, min_size=2, max_size=2),
    'a positive number, "dim" or "dim/2"': (
        st.floats(0, 1e6, exclude_min=True) | st.integers(1, 256) | st.sampled_from(["dim", "dim/2", "dim / 3.5"])
    ),
    "a list of numbers of at least 0": _block_lists,
    'a list of numbers of at least 0, or a curve such as "cosine" or "linear+0.25"': (
        _block_lists | st.sampled_from(["cosine", "linear+0.25", "zeros + 1"])
    ),
    "a text, a number, true or false": _scalars,
    "a text, a number, true, false, or a list of these": _arguments,
}


def plain_values(path: KeyPath, field: FieldInfo) -> SearchStrategy[Any]:
    """Values of one key as a TOML file would hold them."""
    if is_open(path):
        item = words(field).removeprefix("a table of arguments, each ")
        return st.dictionaries(_keys, _BY_WORDS[item], max_size=3)
    if options := choices(field):
        return st.sampled_from(options)
    return _BY_WORDS[words(field)]


@st.composite
def preset_data(draw: DrawFn, fixed: Mapping[KeyPath, SearchStrategy[Any]] | None = None) -> dict[str, Any]:
    """The values of a preset as TOML would hold them: what is required, and up to 12 other keys.

    ``fixed`` replaces the strategy of a key and puts it into every preset.
    """
    own = dict(fixed or {})
    known = dict(fields())
    chosen = {path for path, field in known.items() if field.is_required()} | own.keys()
    for pair in ((("length", "epochs"), ("length", "steps")), (("dataset", "path"), ("dataset", "config"))):
        if not chosen.intersection(pair):
            chosen.add(draw(st.sampled_from(pair)))
    rivals = {rival for path in chosen for rival in EXCLUSIVE.get(path, ())}
    others = sorted(known.keys() - chosen - rivals)
    chosen |= draw(st.sets(st.sampled_from(others), max_size=12))
    values = {path: draw(own.get(path, plain_values(path, known[path]))) for path in known if path in chosen}
    return nest(values)


def presets(fixed: Mapping[KeyPath, SearchStrategy[Any]] | None = None) -> SearchStrategy[Preset]:
    """Valid presets of any kind; see :func:`preset_data`."""
    return preset_data(fixed).map(Preset.model_validate)
