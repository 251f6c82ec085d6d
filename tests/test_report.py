import base64
import csv
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.study import figures, files, report, tiles
from cfg_jax.study.curves import families
from cfg_jax.study.paper_tables import TABLE_1
from cfg_jax.study.svg import COLORS
from cfg_jax.study.tiles import Tiles
from configs import digits
from tests.sweep_results import made_result, paper_results
from tests.tiny import random_model, tiny_points

WEIGHTS = (0, 0.1, 0.3, 1, 4)


def digits_results():
    """Results of two runs; the score of the second falls at the end."""
    config = digits.get_config()
    config.diffusion.p_uncond = 0.5
    config.seed = 7
    first = zip(WEIGHTS, [2.0, 1.5, 1.8, 3.0, 6.0], [8.0, 8.5, 8.9, 9.3, 9.6], strict=True)
    second = zip(WEIGHTS, [2.4, 1.9, 2.1, 3.3, 6.3], [8.0, 8.4, 8.8, 9.2, 9.1], strict=True)
    return [made_result(*cell) for cell in first] + [
        made_result(*cell, p_uncond=0.5, config=config) for cell in second
    ]


class Page(HTMLParser):
    """Parsed tags, addresses, ids, styles and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.said, self.tags, self.scripts = [], [], [], [], []
        self.ids, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        named = dict(attributes)
        self.addresses += [(tag, named[name]) for name in ("src", "href") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.said).append(data)

    @property
    def pictures(self):
        sources = (address.split(",", 1)[1] for tag, address in self.addresses if tag == "img")
        return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def samples(*names):
    """Tiles of two weights, black at the first and white at the second."""
    images = np.zeros((len(names), 2, 20, 30, 3), np.uint8)
    images[:, 1] = 255
    return Tiles(list(names), ["w = 0", "w = 1"], images)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    results = digits_results()
    results[0].record["warnings"].append("fid: 5 samples <for> features")
    report.write_report(
        path,
        results,
        plots=figures.frontiers(results),
        strips={"p_uncond = 0.1 & more": samples("zero", "one")},
        losses=figures.loss_curves({"a": [(1, 0.5), (2, 0.25)]}),
    )
    text = path.read_text()
    return text, Page(text)


def test_the_page_needs_nothing_but_itself(page):
    text, parsed = page
    assert parsed.open == []
    assert not {"link", "iframe", "object", "base"} & set(parsed.tags)
    for tag, address in parsed.addresses:
        assert address.startswith("data:image/png;base64," if tag == "img" else "#")
    assert "@import" not in text and "http:" not in text and "https:" not in text


def test_the_browser_is_told_to_run_the_script_of_the_page_only(page):
    (script,) = page[1].scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for _, value in page[1].attributes if "default-src" in (value or ""))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert not [name for name, _ in page[1].attributes if name.startswith("on")]


def test_every_id_of_the_page_is_unique_and_every_reference_has_one(page):
    text, parsed = page
    assert len(set(parsed.ids)) == len(parsed.ids)
    referred = {address[1:] for _, address in parsed.addresses if address.startswith("#")}
    referred |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert referred <= set(parsed.ids) and {"claims", "tables", "config"} <= referred


def test_figures_have_the_colours_of_the_page_only(page):
    colours = [
        found
        for name, value in page[1].attributes
        if name == "style"
        for found in re.findall(r"(?:fill|stroke): ([^;]+)", value)
    ]
    allowed = r"none|currentColor|var\(--series-\d\)"
    assert len(colours) > 20 and all(re.fullmatch(allowed, colour) for colour in colours)
    assert "font-family" not in " ".join(value for name, value in page[1].attributes if value)


def luminance(colour):
    """Relative luminance of a colour as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_texts_and_curves_stand_out_on_light_and_on_dark_pages():
    style = (Path(report.__file__).parent / "report.css").read_text()
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in style.split("@media")[:2]
    ]
    for scheme, colours in zip(schemes, zip(*COLORS, strict=True), strict=True):
        for name in ("ink", "soft", "link"):
            assert contrast(scheme[name], scheme["page"]) >= 4.5
        for name in ("good", "fair", "bad", "none"):
            assert contrast(scheme[name], scheme[f"{name}-back"]) >= 4.5
        assert all(contrast(colour, scheme["page"]) >= 4.5 for colour in colours)


def test_samples_of_every_weight_are_on_the_page(page):
    pictures = page[1].pictures
    assert [picture.size for picture in pictures] == [(30, 20)] * 4
    assert [picture.convert("L").getextrema()[0] for picture in pictures] == [0, 0, 255, 255]
    said = [value for name, value in page[1].attributes if name == "alt"]
    assert said == ["zero, w = 0", "one, w = 0", "zero, w = 1", "one, w = 1"]


def test_the_page_has_verdicts_numbers_protocol_and_what_differs_between_the_runs(page):
    said = "\n".join(page[1].said)
    assert "10 cells of 5000 samples each, from the checkpoint of step 900, compared" in said
    assert "Warning: one seed of 5000 samples: differences may be chance" in said
    assert "holds: 2, holds in part: 1, not measured: 1" in said
    assert "p_uncond = 0.5: 8.000 at w = 0 to 9.100 at w = 4, but 9.200 at w = 1 to 9.100" in said
    assert "1.500* / 8.500" in said
    assert "Warning: fid: 5 samples <for> features" in said
    assert "p_uncond = 0.1 & more" in said
    for field in ("network_sha256", "reference_count", "label_plan", "jax", "logvar_interp"):
        assert field in page[1].said
    assert "0.1 | 0.5" in page[1].said and "0 | 7" in page[1].said


def test_a_figure_is_headed_by_the_best_number_of_its_data(page):
    said = " ".join(page[1].said).replace("\u00a0", " ")
    best = "Frechet distance in digits_features is lowest at w = 0.1 with p_uncond = 0.1: 1.500"
    assert best in said
    assert "The loss falls from 0.5 at step 1 to 0.25 at step 2" in said
    moved = [made_result(w, d, 8) for w, d in ((0, 3.0), (1, 2.0), (2, 1.25))]
    (plot,) = figures.frontiers(moved).values()
    assert plot.finding == "Frechet distance in digits_features is lowest at w = 2: 1.250"
    rising = figures.loss_curves({"a": [(1, 0.5)], "b": [(1, 0.2), (3, 0.4)]})
    assert rising.finding == "The loss rises from 0.2 at step 1 to 0.4 at step 3 in b"


def test_the_row_with_the_lowest_distance_is_marked_in_every_table(page):
    text, _ = page
    marked = re.findall(r'<tr class="best">(.*?)</tr>', text)
    first = [re.findall(r"<td>(.*?)</td>", row)[0] for row in marked]
    assert first == ["0.1", "p_uncond = 0.1, T = 32, w = 0.1"]


def drawn_labels(plot):
    (axes,) = plot.figure.axes
    plot.figure.draw_without_rendering()
    return axes, {text: text.get_window_extent() for text in axes.texts}


def test_distances_that_hardly_differ_look_alike():
    def heights(distances):
        cells = zip((8, 32), distances, strict=True)
        results = [made_result(0, fid, 8, num_steps=steps) for steps, fid in cells]
        (axes,) = figures.frontiers(results)["calls"].figure.axes
        low, high = axes.get_ylim()
        return (distances[0] - distances[1]) / (high - low)

    assert heights((174.45, 173.11)) < 0.2
    assert heights((137.0, 132.0)) > 0.6  # nearly 4 per cent
    assert heights((20.0, 10.0)) > 0.8


def test_labels_of_points_overlap_neither_each_other_nor_a_point_nor_the_frame():
    crowd = np.random.default_rng(0)
    cells = [(w, 2 + crowd.random() / 9, 8 + crowd.random() / 9) for w in range(30)]
    cells += [(40, 5, 9)]
    (plot,) = figures.frontiers([made_result(*cell) for cell in cells]).values()
    axes, labels = drawn_labels(plot)
    assert 8 < len(labels) <= len(cells)
    assert {"40", f"{min(cells, key=lambda cell: cell[1])[0]}"} <= {t.get_text() for t in labels}
    points = axes.transData.transform([cell[1:] for cell in cells])
    for i, (text, box) in enumerate(labels.items()):
        assert not any(box.overlaps(other) for other in list(labels.values())[i + 1 :])
        assert not any(box.contains(*point) for point in points), text
        low, high = axes.bbox.min - 1, axes.bbox.max + 1
        assert (box.min >= low).all() and (box.max <= high).all()


def test_every_label_of_points_that_lie_apart_is_written():
    _, labels = drawn_labels(figures.frontiers(digits_results())["frontier_w"])
    assert sorted(text.get_text() for text in labels) == sorted(f"{w:g}" for w in WEIGHTS * 2)


def test_plots_of_one_and_of_two_curves_have_one_height():
    coarse = [made_result(w, 4, 8, num_steps=8) for w in WEIGHTS]
    found = figures.frontiers(digits_results()[:5] + coarse)
    curves = [
        len(found[name].figure.legends[0].get_texts()) for name in ("frontier_w", "frontier_T")
    ]
    assert curves == [1, 2]
    assert len({plot.figure.get_figheight() for plot in found.values()}) == 1


def test_a_star_marks_the_lowest_distance():
    (axes,) = figures.frontiers(digits_results())["frontier_w"].figure.axes
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    assert star.get_xydata().tolist() == [[1.5, 8.5]]


def test_no_number_of_another_network_is_called_fid(page):
    said = " ".join(page[1].said)
    assert "Frechet distance in digits_features" in said
    assert "Guidance: score against Frechet distance" in said
    assert not re.search(r"\bFID\b", said)


def test_numbers_of_inception_are_called_fid_and_stand_beside_the_paper_s(tmp_path):
    results = paper_results(TABLE_1)
    report.write_report(tmp_path / "a.html", results, plots={}, strips={})
    said = [text.strip() for text in Page((tmp_path / "a.html").read_text()).said]
    assert "Guidance: IS against FID" in said and "published" in said
    assert "Training" not in said and "Samples" not in said


def test_results_of_unlike_protocols_are_not_reported(tmp_path):
    results = [*digits_results(), made_result(2, 3.0, 9.0, protocol={"reference": "other"})]
    with pytest.raises(ValueError, match="reference is digits train in"):
        report.write_report(tmp_path / "a.html", results, plots={}, strips={})
    assert not (tmp_path / "a.html").exists()


def data_of(plot, i):
    """Points of curve i."""
    return plot.figure.axes[0].lines[i].get_xydata().tolist()


def test_plots_are_there_for_what_was_measured_and_points_lie_where_they_should():
    found = figures.frontiers(digits_results())
    assert list(found) == ["frontier_w"]
    (axes,) = found["frontier_w"].figure.axes
    assert axes.get_xlabel() == "Frechet distance in digits_features"
    assert axes.get_title("left") == "score in digits_features"
    labels = [line.get_label() for line in axes.lines[:2]]
    assert labels == ["p_uncond = 0.1", "p_uncond = 0.5"]
    assert data_of(found["frontier_w"], 0)[1] == [1.5, 8.5]
    more = [made_result(0, 4.0, 7.0, num_steps=8), made_result(0, 3.0, 8.1, score_temperature=1.1)]
    found = figures.frontiers(digits_results() + more)
    assert list(found) == ["frontier_w", "frontier_T", "frontier_ways", "calls"]
    # The temperature curve starts at the cell without one, w = 0.
    assert data_of(found["frontier_ways"], 1) == [[2.0, 8.0], [3.0, 8.1]]
    assert data_of(found["calls"], 0) == [[8, 4.0], [32, 2.0]]
    papers = figures.frontier(families(paper_results(TABLE_1)).over_p).figure.axes[0].lines
    assert [line.get_linestyle() for line in papers] == ["-", "--"] * 3 + ["None"]


def test_losses_are_read_from_a_record_that_a_cut_left_half_written(tmp_path):
    assert figures.read_losses(tmp_path) == []
    lines = [json.dumps({"step": 50, "loss": 0.5}), json.dumps({"step": 100}), '{"step": 150, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert figures.read_losses(tmp_path) == [(50, 0.5)]


HOSTILE = {
    "markup": '"><img src=x onerror=alert(1)></title></style></svg><script>alert(1)</script>',
    "template": "{{ 7 * 7 }}{% include 'report.js' %}{#",
    "terminal": "\x1b[31m\x07\x00\x9b",
    "direction": "abc\u202egpj.exe\u2028",
    "from right to left": "\u05d0\u05d1\u05d2 \u0627\u0644\u0639 (a < b)",
    "no text": os.fsdecode(b"caf\xff"),
    "no character": "a\uffff\ufffeb",
    "long": "x" * 300,
    "formula": "$\\frac",
    "fields": "%s{0}",
    "colour": "fill: #1f6fb4; stroke: #1b1d21",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_name_is_shown_on_a_page_and_in_its_plots_and_does_nothing(tmp_path, kind):
    name, path = HOSTILE[kind], tmp_path / "report.html"
    results = [made_result(w, 2, 8, protocol={"network": name, "reference": name}) for w in (0, 1)]
    results[0].record["warnings"].append(name)
    found = figures.frontiers(results)
    files.write(tmp_path, results, found)
    report.write_report(
        path,
        results,
        plots=found,
        strips={name: samples(name)},
        losses=figures.loss_curves({name: [(1, 0.5), (2, 0.25)]}),
    )
    text = path.read_text()
    parsed = Page(text)
    assert parsed.open == [] and "link" not in parsed.tags
    counts = {"script": 1, "svg": 2, "img": 2, "title": 1, "style": 1}
    assert {tag: parsed.tags.count(tag) for tag in counts} == counts
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\ufffe\uffff]", text)
    if kind not in ("terminal", "direction", "no text", "no character"):
        assert any(name in said for said in parsed.said)
    assert Image.open(tmp_path / "frontier_w.png").width == 782  # 4.6 inches at 170 dots


def test_a_curve_is_in_the_legend_whatever_its_name():
    figure = figures.loss_curves({"_background_noise_": [(1, 0.5)], "": [(1, 0.3)]}).figure
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [" _background_noise_", " "]


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path):
    given = ["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "a,b", 'c"d', "e\n=f\x1b"]
    results = [made_result(0, 2, 8, protocol={"reference": name}) for name in given]
    for name, result in zip(given, results, strict=True):
        files.write(tmp_path, [result], {})
        with (tmp_path / "results.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["reference"][0] not in "=+-@\t" and row["w"] == "0.0"
        assert row["reference"].lstrip("'") == " ".join(name.split()).replace("\x1b", "\\x1b")
        assert files.read_results(tmp_path / "results.json")[0].protocol["reference"] == name


def test_points_have_one_picture_for_each_weight(tmp_path):
    model = random_model(tiny_points(), shape=(2,))
    drawn = tiles.strip_of(model, [0, 3], SamplingSettings(num_steps=3), 0)
    shown = tiles.tiles(drawn, tmp_path)
    assert shown.names == ["all labels"] and shown.captions == ["w = 0", "w = 3"]
    assert shown.images.shape == (1, 2, 320, 300, 3)  # 3 x 3.2 inches at 100 dots
    np.testing.assert_array_equal(tiles.tiles(drawn, tmp_path).images, shown.images)
