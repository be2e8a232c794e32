"""The page of a report and its pictures."""

import base64
import json
import re

import numpy as np
import pytest

from cola_jax.evaluate import plots
from cola_jax.evaluate.latents import Latents
from cola_jax.evaluate.report import Picture, Report, Table, machine, samples_of, table_of, write_report
from cola_jax.evaluate.trace import Trace

PNG = b"\x89PNG\r\n\x1a\n"


def draw_all(folder):
    random = np.random.default_rng(0)
    lines = [{"step": step, "reconstruction": 1.0 / step, "mask": 2.0 / step} for step in (1, 2, 3)]
    joint = [
        {"step": 1, "flow_matching": 1.0},
        {"step": 2, "flow_matching": None},
        {"step": 3, "heldout/flow_matching": 0.5},
    ]
    rows = [
        {"guidance": guidance, "steps": steps, "well_formed": 0.5, "entailed": 0.5, "chance": 0.3}
        for guidance, steps in ((1.0, 4), (2.0, 4), (2.0, 8))
    ]
    trace = Trace(random.standard_normal((1, 4, 2, 3)), np.zeros((1, 3, 2), int))
    return [
        plots.plot_losses({"vae": lines, "joint": joint}, folder / "losses.png"),
        plots.plot_latents(Latents(random.standard_normal((30, 4)), ["a", "b", "c"] * 10), folder / "latents.png"),
        plots.plot_noise([0.0, 0.5, 1.0], [1.0, 0.4, 0.0], folder / "noise.png"),
        plots.plot_sweep(rows, (2.0, 4), folder / "sweep.png"),
        plots.plot_trace(trace, ["$x", "a_b^", "long " * 40], folder / "trace.png"),
    ]


@pytest.fixture
def page(tmp_path):
    pictures = [Picture(path.stem, path, f"caption of {path.stem}") for path in draw_all(tmp_path)]
    pairs = [
        ("Anna was in the <b>kitchen</b>. Where is Anna? Answer:", " the garden & more."),
        ("P.", " <script>x</script>"),
    ]
    report = Report(
        title="A & B",
        headline=[("share", "97.1 %", "")],
        samples=[("Samples", samples_of(pairs))],
        pictures=pictures,
        tables=[
            table_of("Sweep", [{"steps": 4, "well_formed": 0.971}, {"steps": 8, "copied": 0.0}]),
            Table("T", ("a",), [["<"]]),
        ],
        configs=[("config", '{"a": "<i>"}')],
    )
    return write_report(tmp_path, report, {"a": 1})


def test_pictures_are_900_pixels_wide(tmp_path):
    for path in draw_all(tmp_path):
        assert path.read_bytes()[16:20] == (900).to_bytes(4)


def test_the_page_holds_every_picture_and_needs_no_other_file(page):
    text = page.read_text()
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    files = sorted(page.parent.glob("*.png"))
    assert len(files) == 5 and all(data.startswith(PNG) for data in inside)
    assert sorted(inside) == sorted(path.read_bytes() for path in files)
    assert not re.findall(r'src="(?!data:)|<link|<script', text)


def test_text_is_escaped(page):
    text = page.read_text()
    assert (
        "<title>A &amp; B</title>" in text and "&lt;b&gt;kitchen&lt;/b&gt;" in text and "the garden &amp; more." in text
    )
    assert "&lt;script&gt;x" in text and "&lt;i&gt;" in text and "<td>&lt;</td>" in text


def test_shares_are_per_cent_and_missing_cells_empty(page):
    text = page.read_text()
    assert (
        "<tr><td>4</td><td>97.1 %</td><td></td></tr>" in text and "<tr><td>8</td><td></td><td>0.0 %</td></tr>" in text
    )


def test_answers_are_marked_by_whether_they_are_entailed():
    asked = "Anna was in the kitchen. Where is Anna? Answer:"
    right, wrong = samples_of([(asked, " the kitchen."), (asked, " the garden.")])
    assert right.entailed and not wrong.entailed and wrong.expected == "kitchen"


def test_writing_again_leaves_one_whole_page(page):
    assert json.loads((page.parent / "figures.json").read_text()) == {"a": 1}
    assert not list(page.parent.glob("*.partial"))


def test_a_missing_picture_leaves_the_old_page(page):
    before = page.read_text()
    broken = Report("new", [], [], [Picture("x", page.parent / "none.png", "")], [], [])
    with pytest.raises(FileNotFoundError):
        write_report(page.parent, broken, {})
    assert page.read_text() == before


def test_the_machine_is_named():
    assert all(machine().values())
