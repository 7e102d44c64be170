"""Pages in a real headless Chromium: they are drawn, nothing is asked of any network, and everything on them works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorakit.verdict.compare import compare
from lorakit.verdict.page.build import compare_page, report_page
from tests.verdict import made_pages
from tests.verdict.chromium import Chromium, chromium, program

pytestmark = pytest.mark.skipif(
    program() is None, reason="NO CHROMIUM: pages are not looked at (apt-get install chromium)"
)

#: Where pictures of the pages stay for people to look at.
PICTURES = Path(__file__).parents[2] / "build" / "pages"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = made_pages.runs(folder / "runs")
    made_pages.diagnosis(runs[0])
    found = compare(runs)
    points = {
        run.path.resolve(): {"optim.unet_lr": unet, "optim.te_lr": te}
        for run, (unet, te) in zip(
            runs, [("1e-4", "5e-5"), ("1e-4", "2e-5"), ("2e-4", "5e-5"), ("2e-4", "2e-5")], strict=True
        )
    }
    texts = {
        "compare": compare_page(found, folder, axes=["optim.unet_lr", "optim.te_lr"], points=points),
        "report": report_page(runs[0], folder),
    }
    paths = {name: folder / f"{name}.html" for name in texts}
    for name, text in texts.items():
        paths[name].write_text(text, encoding="utf-8")
    return paths


@pytest.fixture
def compared(browser: Chromium, pages: dict[str, Path]) -> Iterator[Chromium]:
    """The comparison, freshly opened; at the end nothing was complained of and nothing asked of any network."""
    browser.problems.clear()
    browser.requests.clear()
    browser.open(pages["compare"])
    yield browser
    assert browser.problems == []
    assert [address for address in browser.requests if not address.startswith(("file:", "data:", "blob:"))] == []


TRACES = "document.querySelectorAll('#plot-{} .scatterlayer .trace').length"


def column(browser: Chromium, number: int) -> list[str]:
    """The texts of a column of the table, without heads of groups."""
    script = f"[...document.querySelectorAll('#table tbody tr:not(.group)')].map(row => row.children[{number}]?.innerText.trim())"
    found: list[str] = browser.run(script)
    return found


def test_everything_is_drawn(compared: Chromium) -> None:
    assert compared.run("document.querySelectorAll('.run').length") == 4
    # Loss faint and smoothed, and validation; rates of two parts; gradients of three, each faint and smoothed.
    assert compared.run(TRACES.format("loss")) == 4 * 3
    assert compared.run(TRACES.format("lr")) == 4 * 2
    assert compared.run(TRACES.format("grad")) == 4 * 6
    assert compared.run("document.querySelectorAll('#plot-weights .barlayer .point').length") == 4 * 2
    assert compared.run("document.querySelectorAll('#plot-sweep .heatmaplayer image').length") == 1
    assert compared.run("document.querySelectorAll('#plot-sweep .annotation').length") == 4
    assert compared.run("[...document.querySelectorAll('#samples img')].every(one => one.complete && one.naturalWidth)")


def test_the_slider_goes_through_the_epochs(compared: Chromium) -> None:
    shown = "[...document.querySelectorAll('#samples img')].map(one => one.dataset.moment)"
    assert compared.run("document.getElementById('moment').textContent") == "epoch 7"
    assert compared.run(shown) == ["4", "5", "6", "7"] * 2  # the newest that each run has
    compared.run("const s = document.getElementById('epoch'); s.value = 1; s.dispatchEvent(new Event('input'))")
    assert compared.run("document.getElementById('moment').textContent") == "epoch 2"
    assert compared.run(shown) == ["2"] * 8


def test_a_click_on_a_head_sorts(compared: Chromium) -> None:
    compared.run("document.querySelector('[data-value=lines]').click()")
    assert [label.split()[0] for label in column(compared, 0)] == ["k3f0", "k3f1", "k3f2", "k3f3"]
    head = "document.querySelector('[data-sort=\"resultvalidation\"]')"
    compared.run(f"{head}.click()")
    assert [label.split()[0] for label in column(compared, 0)] == ["k3f3", "k3f2", "k3f1", "k3f0"]
    assert compared.run(f"{head}.parentElement.ariaSort") == "ascending"
    compared.run(f"{head}.click()")
    assert column(compared, 0)[0].split()[0] == "k3f0"
    compared.run("document.querySelector('[data-value=columns]').click()")
    before = column(compared, 0)
    compared.run("document.querySelector('[data-sort=\"#\"]').click()")
    assert column(compared, 0) != before


def test_differences_are_marked(compared: Chromium) -> None:
    marked = "[...document.querySelectorAll('td.differs')].map(one => one.innerText.trim())"
    assert {"2e-4", "2e-5"} <= set(compared.run(marked))
    assert compared.run("document.querySelector('td.best').innerText") == "0.0880"
    rows = "document.querySelectorAll('#table tbody tr').length"
    before = compared.run(rows)
    compared.run("document.getElementById('all').click()")
    assert compared.run(rows) > before


def test_runs_are_hidden_and_shown(compared: Chromium) -> None:
    compared.run("document.querySelectorAll('.run')[1].click()")
    assert compared.run(TRACES.format("loss")) == 3 * 3
    assert compared.run("document.querySelectorAll('#samples img').length") == 6
    compared.run("document.querySelectorAll('.run')[1].click()")
    assert compared.run(TRACES.format("loss")) == 4 * 3


def test_curves_by_epoch_and_time_smoothed_on_a_log_axis_and_zoomed(compared: Chromium) -> None:
    last = "(at => at.data[at.data.length - 1].x.at(-1))(document.getElementById('plot-loss'))"
    assert compared.run(last) == 105
    compared.run("document.querySelector('[data-value=epoch]').click()")
    assert compared.run(last) == 7
    compared.run("document.querySelector('[data-value=time]').click()")
    assert compared.run(last) == 52
    compared.run("document.querySelector('[data-value=step]').click()")
    compared.run("const s = document.getElementById('smooth'); s.value = 0; s.dispatchEvent(new Event('input'))")
    assert compared.run(TRACES.format("loss")) == 4 * 2  # without smoothing there is no faint line behind
    assert compared.run("document.getElementById('plot-loss').data[0].y[6]") is None  # the step whose loss was nan
    compared.run("document.getElementById('log').click()")
    assert compared.run("document.getElementById('plot-loss').layout.yaxis.type") == "log"
    compared.run("Plotly.relayout('plot-loss', {'xaxis.range[0]': 10, 'xaxis.range[1]': 20}).then(() => 1)")
    compared.until("document.getElementById('plot-lr').layout.xaxis.range?.[1] === 20")


def test_the_sweep_shows_other_measures(compared: Chromium) -> None:
    texts = "[...document.querySelectorAll('#plot-sweep .annotation text')].map(one => one.textContent).sort()"
    assert compared.run(texts) == ["0.0880", "0.0980", "0.108", "0.118"]
    compared.run(
        "const s = document.querySelector('[data-menu=shows]'); s.value = 'loss_last'; s.dispatchEvent(new Event('change'))"
    )
    assert compared.run(texts) == ["0.100", "0.110", "0.120", "0.130"]


def test_what_means_harm_is_only_text(compared: Chromium) -> None:
    assert compared.run("window.hacked") is None
    assert compared.run("document.querySelectorAll('img[onerror], img[src=x]').length") == 0
    assert compared.run("document.querySelector('.run .name').textContent") == made_pages.HOSTILE
    assert made_pages.HOSTILE in compared.run(
        "[...document.querySelectorAll('.pictures ins')].map(one => one.textContent)"
    )
    # What turns the direction of text turns its own alone.
    assert compared.run("getComputedStyle(document.querySelector('.run .name bdi')).unicodeBidi") == "isolate"


@pytest.mark.parametrize(
    ("page", "name", "width", "dark"),
    [
        ("compare", "light", 1280, False),
        ("compare", "dark", 1280, True),
        ("compare", "phone", 390, True),
        ("report", "light", 1280, False),
        ("report", "phone", 390, False),
    ],
)
def test_pictures_for_people(
    page: str, name: str, width: int, dark: bool, browser: Chromium, pages: dict[str, Path]
) -> None:
    browser.problems.clear()
    browser.open(pages[page], width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width  # nothing sticks out of a phone
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark
    picture = browser.picture(PICTURES / f"{page}-{name}.png")
    assert picture.stat().st_size > 20_000
    assert browser.problems == []


def test_the_report_of_a_run(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.problems.clear()
    browser.open(pages["report"])
    told = browser.run("document.querySelector('.finding').innerText")
    assert "D07" in told
    assert made_pages.HOSTILE.replace("\u202e", "") in told.replace("\u202e", "")
    assert "stop at lora-000002" in told
    assert browser.run("document.querySelector('.sheet').naturalWidth") == 400
    assert browser.run("document.querySelectorAll('#plot-growth .trace').length") == 3
    assert browser.run("window.hacked") is None
    assert browser.problems == []
