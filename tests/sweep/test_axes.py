"""The grammar of a sweep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.errors import UsageError
from lorakit.sweep.axes import Axis, grid, key_of, label, parse_axes, split_values, trial_name


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-4,2.5e-4", ("1e-4", "2.5e-4")),
        ("1e-4", ("1e-4",)),
        (" 1 , 2 ", ("1", "2")),
        ("[5e-5, 2e-5],1e-5", ("[5e-5, 2e-5]", "1e-5")),
        ("5e-5/2e-5,0", ("5e-5/2e-5", "0")),
        ('"a,b",c', ('"a,b"', "c")),
        ("{a = [1,2]},{b = 3}", ("{a = [1,2]}", "{b = 3}")),
        ("it's,fine", ("it's", "fine")),
        ("['it, is']", ("['it, is']",)),
        ("", ("",)),
    ],
)
def test_values_are_split_at_the_commas_outside(text: str, values: tuple[str, ...]) -> None:
    assert split_values(text) == values


@given(st.lists(st.text("abc123.-e/ []", max_size=6).map(str.strip), min_size=1, max_size=5))
def test_plain_values_come_back(values: list[str]) -> None:
    plain = [value.replace("[", "").replace("]", "").strip() for value in values]
    assert list(split_values(",".join(plain))) == plain


@given(st.text(max_size=30))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        values = split_values(text)
    except UsageError:
        return
    assert "".join(",".join(values).split()) == "".join(text.split())  # nothing is lost but space at the edges


def test_axes_come_in_the_order_of_the_line() -> None:
    given = {"--unet-lr": "1e-4,2e-4", "--te-lr": None, "--dim": "16"}
    assert parse_axes(given, ["loss.min_snr_gamma=1,5"]) == (
        Axis("optim.unet_lr", ("1e-4", "2e-4")),
        Axis("network.dim", ("16",)),
        Axis("loss.min_snr_gamma", ("1", "5")),
    )


@pytest.mark.parametrize(
    ("shorthands", "sets"),
    [
        ({"--unet-lr": "1e-4,,2e-4"}, []),
        ({"--unet-lr": "1e-4"}, ["optim.unet_lr=2e-4"]),
        ({"--te-lr": "[1,2"}, []),
        ({}, ["nothing"]),
        ({}, ["=1,2"]),
        ({"--unet-lr": ""}, []),
        ({"--dim": "8-4 (+1)"}, []),
        ({"--dim": "1..4"}, []),
        ({"--unet-lr": "0..1e-3 log 3"}, []),
        ({"--dim": "1-100000"}, []),
    ],
)
def test_what_cannot_be_meant_is_refused(shorthands: dict[str, str | None], sets: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_axes(shorthands, sets)


def test_a_value_given_twice_counts_once() -> None:
    assert parse_axes({"--dim": "8,16,8,4-8 (+4)"}, ()) == (Axis("network.dim", ("8", "16", "4")),)


def test_zipped_axes_go_hand_in_hand() -> None:
    axes = (Axis("a", ("1", "2")), Axis("b", ("x", "y")), Axis("c", ("p", "q")))
    points = grid(axes, [("c", "a")])
    assert ["".join(value for _, value in point) for point in points] == ["1xp", "1yp", "2xq", "2yq"]


@pytest.mark.parametrize("zips", [[("a",)], [("a", "z")], [("a", "b")], [("a", "c"), ("c", "a")]])
def test_axes_that_cannot_be_zipped_are_refused(zips: list[tuple[str, ...]]) -> None:
    axes = (Axis("a", ("1", "2")), Axis("b", ("x", "y", "z")), Axis("c", ("p", "q")))
    with pytest.raises(UsageError, match="zip"):
        grid(axes, zips)


def test_a_grid_that_nobody_can_mean_is_refused() -> None:
    with pytest.raises(UsageError, match="trials"):
        grid(tuple(Axis(name, tuple(map(str, range(30)))) for name in "abc"))


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("unet_lr", "optim.unet_lr"),
        ("te", "optim.te_lr"),
        ("dim", "network.dim"),
        ("seed", "seed"),
        ("loss.type", "loss.type"),
    ],
)
def test_short_words_stand_for_keys(word: str, key: str) -> None:
    assert key_of(word) == key


def test_the_grid_varies_the_last_axis_fastest() -> None:
    points = grid((Axis("a", ("1", "2")), Axis("b", ("x", "y"))))
    assert ["".join(value for _, value in point) for point in points] == ["1x", "1y", "2x", "2y"]


@given(st.lists(st.integers(1, 4), max_size=4))
def test_the_grid_has_every_combination_once(sizes: list[int]) -> None:
    axes = tuple(Axis(str(at), tuple(map(str, range(size)))) for at, size in enumerate(sizes))
    points = grid(axes)
    count = 1
    for size in sizes:
        count *= size
    assert len(points) == len(set(points)) == count


def test_names_tell_what_varies() -> None:
    axes = (
        Axis("optim.unet_lr", ("1e-4", "2e-4")),
        Axis("optim.te_lr", ("5e-5/2e-5", "0")),
        Axis("network.dim", ("8",)),
    )
    assert trial_name("hifumi", axes, grid(axes)[0]) == "hifumi-unet1e-4_te5e-5+2e-5"
    assert trial_name("x", (Axis("loss.type", ("l1", "l2")),), (("loss.type", "l1"),)) == "x-typel1"
    assert label("optim.te_lr") == "te"
    assert label("loss.type") == "loss.type"
