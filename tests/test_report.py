import base64
import csv
import io
import json
import os
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from cfg_jax.study import files, plots, report
from cfg_jax.study.curves import families
from cfg_jax.study.paper_tables import TABLE_1
from configs import digits
from tests.sweep_results import made_result, paper_results

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
    """Parsed tags, addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.said, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.addresses += [(tag, named[name]) for name in ("src", "href") if name in named]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    results = digits_results()
    results[0].record["warnings"].append("fid: 5 samples <for> features")
    report.write_report(
        path,
        results,
        pictures=plots.frontiers(results),
        strips={"p_uncond = 0.1 & more": Image.new("RGB", (30, 20), "red")},
        losses=plots.loss_curves({"a": [(1, 0.5), (2, 0.25)]}),
    )
    text = path.read_text()
    return text, Page(text)


def test_the_page_needs_nothing_but_itself(page):
    text, parsed = page
    assert parsed.open == []
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    assert len(parsed.addresses) == 3  # frontier, strip, losses
    for tag, address in parsed.addresses:
        assert tag == "img" and address.startswith("data:image/png;base64,")
    assert "url(" not in text and "@import" not in text and "http" not in text


def test_pictures_on_the_page_are_whole(page):
    for _, address in page[1].addresses:
        picture = Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1])))
        picture.load()
        assert min(picture.size) >= 20


def test_the_page_has_verdicts_numbers_protocol_and_what_differs_between_the_runs(page):
    said = "\n".join(page[1].said)
    assert "holds in part" in said
    assert "p_uncond = 0.5: 8.000 at w = 0 to 9.100 at w = 4, but 9.200 at w = 1 to 9.100" in said
    assert "1.500* / 8.500" in said
    assert "Warning: fid: 5 samples <for> features" in said
    assert "p_uncond = 0.1 & more" in said
    for field in ("network_sha256", "reference_count", "label_plan", "jax", "logvar_interp"):
        assert field in page[1].said
    assert "0.1 | 0.5" in page[1].said and "0 | 7" in page[1].said


def test_no_number_of_another_network_is_called_fid(page):
    said = " ".join(page[1].said)
    assert "Frechet distance in digits_features" in said
    assert not re.search(r"\bFID\b", said)


def test_numbers_of_inception_are_called_fid_and_stand_beside_the_paper_s(tmp_path):
    results = paper_results(TABLE_1)
    report.write_report(tmp_path / "a.html", results, pictures={}, strips={})
    said = Page((tmp_path / "a.html").read_text()).said
    assert "Guidance: IS against FID" in said and "published" in said
    assert "Training" not in said and "Samples" not in said


def test_results_of_unlike_protocols_are_not_reported(tmp_path):
    results = [*digits_results(), made_result(2, 3.0, 9.0, protocol={"reference": "other"})]
    with pytest.raises(ValueError, match="reference is digits train in"):
        report.write_report(tmp_path / "a.html", results, pictures={}, strips={})
    assert not (tmp_path / "a.html").exists()


def test_plots_are_there_for_what_was_measured_and_points_lie_where_they_should(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "rendered", lambda figure: drawn.append(figure.axes[0]))
    assert list(plots.frontiers(digits_results())) == ["frontier_w"]
    (axes,) = drawn
    assert axes.get_xlabel() == "Frechet distance in digits_features"
    assert [line.get_label() for line in axes.lines] == ["p_uncond = 0.1", "p_uncond = 0.5"]
    assert axes.lines[0].get_xydata()[1].tolist() == [1.5, 8.5]
    more = [made_result(0, 4.0, 7.0, num_steps=8), made_result(0, 3.0, 8.1, score_temperature=1.1)]
    assert list(plots.frontiers(digits_results() + more)) == [
        "frontier_w",
        "frontier_T",
        "frontier_ways",
        "calls",
    ]
    # The temperature curve starts at the cell without one, w = 0.
    assert drawn[-2].lines[1].get_xydata().tolist() == [[2.0, 8.0], [3.0, 8.1]]
    assert drawn[-1].lines[0].get_xydata().tolist() == [[8, 4.0], [32, 2.0]]
    plots.frontier(families(paper_results(TABLE_1)).over_p)
    assert [line.get_linestyle() for line in drawn[-1].lines] == ["-", "--"] * 3


def test_losses_are_read_from_a_record_that_a_cut_left_half_written(tmp_path):
    assert plots.read_losses(tmp_path) == []
    lines = [json.dumps({"step": 50, "loss": 0.5}), json.dumps({"step": 100}), '{"step": 150, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert plots.read_losses(tmp_path) == [(50, 0.5)]


HOSTILE = {
    "markup": '"><img src=x onerror=alert(1)></title></style><script>alert(1)</script>',
    "terminal": "\x1b[31m\x07\x00\x9b",
    "direction": "abc\u202egpj.exe\u2028",
    "no text": os.fsdecode(b"caf\xff"),
    "long": "x" * 300,
    "formula": "$\\frac",
    "fields": "%s{0}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_name_is_shown_on_a_page_and_in_its_plots_and_does_nothing(tmp_path, kind):
    name, path = HOSTILE[kind], tmp_path / "report.html"
    results = [made_result(w, 2, 8, protocol={"network": name, "reference": name}) for w in (0, 1)]
    results[0].record["warnings"].append(name)
    report.write_report(
        path,
        results,
        pictures=plots.frontiers(results),
        strips={name: Image.new("RGB", (30, 20), "red")},
        losses=plots.loss_curves({name: [(1, 0.5), (2, 0.25)]}),
    )
    text = path.read_text()
    parsed = Page(text)
    assert not {"script", "svg", "link"} & set(parsed.tags) and parsed.tags.count("img") == 3
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", text)
    if kind in ("markup", "long", "formula", "fields"):
        assert any(name in said for said in parsed.said)
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(a.split(",")[1]))) for _, a in parsed.addresses
    ]
    assert max(picture.width for picture in pictures) < 1000


def test_a_curve_is_in_the_legend_whatever_its_name(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "rendered", lambda figure: drawn.append(figure.axes[0]))
    plots.loss_curves({"_background_noise_": [(1, 0.5)], "": [(1, 0.3)]})
    texts = [text.get_text() for text in drawn[0].get_legend().get_texts()]
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
