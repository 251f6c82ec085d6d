"""The explorer and the report in a browser without a screen: sliders, keys, widths and schemes."""

import shutil
import signal
from pathlib import Path

import pytest

from cfg_jax.study import figures, report
from tests.programs import free_port, start_program
from tests.test_report import digits_results, samples

pytestmark = pytest.mark.long

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip("no chromium: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        api.expect.set_options(timeout=1000 * SECONDS)
        yield browser
        browser.close()


def opened(browser, address, **options):
    """A page, and lists of its errors and of the servers that it talked to."""
    page, errors, servers = browser.new_page(**options), [], set()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: servers.add(asked.url.split("/")[2]))
    page.goto(address)
    return page, errors, servers


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    results = digits_results()
    report.write_report(
        path,
        results,
        plots=figures.frontiers(results),
        strips={"a run": samples("zero", "one")},
        losses=figures.loss_curves({"a": [(1, 0.5), (2, 0.25)]}),
    )
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_report_is_as_wide_as_its_window_and_has_its_scheme(
    browser, report_page, width, scheme
):
    size = {"width": width, "height": 900}
    page, errors, _ = opened(browser, report_page, viewport=size, color_scheme=scheme)
    for fold in page.locator("details > summary").all():
        fold.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, back = page.evaluate(
        "['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name])"
    )
    line = page.evaluate("getComputedStyle(document.querySelector('.plot svg text')).fill")
    shades = {"light": ("rgb(27, 29, 33)", "rgb(255, 255, 255)")}
    assert (ink, back) == shades.get(scheme, ("rgb(230, 232, 235)", "rgb(21, 23, 27)"))
    assert line == ink and not errors
    page.close()


def test_tables_of_the_report_are_sorted_by_keys(browser, report_page):
    page, errors, _ = opened(browser, report_page)
    table = page.locator("table.numbers").first
    first = table.locator("tbody tr td:first-child")
    assert first.all_inner_texts() == ["0", "0.1", "0.3", "1", "4"]
    widths = [each.bounding_box()["width"] for each in table.locator("th").all()]
    heading = table.get_by_role("button").nth(1)
    heading.press("Enter")  # distances 2.0, 1.5, 1.8, 3.0, 6.0
    assert first.all_inner_texts() == ["0.1", "0.3", "0", "1", "4"]
    heading.press("Enter")
    assert first.all_inner_texts() == ["4", "1", "0", "0.3", "0.1"]
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    assert [each.bounding_box()["width"] for each in table.locator("th").all()] == widths
    assert not errors
    page.close()


def test_the_slider_of_the_report_shows_one_weight_and_without_scripts_all_are_shown(
    browser, report_page
):
    page, errors, _ = opened(browser, report_page)
    assert page.locator(".column:visible img").count() == 2
    page.get_by_role("slider").press("ArrowRight")
    assert page.locator(".column:visible img").first.get_attribute("alt") == "zero, w = 1"
    assert page.locator("output").inner_text() == "w = 1" and not errors
    page.close()
    page, _, _ = opened(browser, report_page, java_script_enabled=False)
    assert page.locator(".column:visible img").count() == 4
    assert page.get_by_role("slider").count() == 0
    page.close()


def test_a_slider_of_the_explorer_changes_its_pictures_and_nothing_is_loaded_from_elsewhere(
    browser, tiny_run
):
    expect = pytest.importorskip("playwright.sync_api").expect
    port = free_port()
    flags = (f"--workdir={tiny_run}", f"--port={port}", "--num_steps=4")
    with start_program("launch.explore", *flags) as program:
        address = f"http://127.0.0.1:{port}/"
        assert address in program.wait_for(address, 600), program
        page, errors, servers = opened(browser, address)
        shown = [page.locator(f"#{name} img") for name in ("samples", "trajectory", "telemetry")]
        for name, said in (("Guidance weight w", "--w=0,1.1"), ("Seed", "--seed=1")):
            before = []
            for picture in shown:
                expect(picture).to_be_visible()
                before.append(picture.get_attribute("src"))
            page.get_by_role("slider", name=name).press("ArrowRight")
            expect(page.locator("#command")).to_contain_text(said)
            for picture, source in zip(shown, before, strict=True):
                expect(picture).not_to_have_attribute("src", source)
        page.get_by_role("slider", name="Guided from log-SNR").press("End")
        error = page.locator(".error")
        expect(error).to_contain_text("move the first below the second")
        assert (
            shown[0].evaluate("(each) => getComputedStyle(each.closest('.picture')).opacity") < "1"
        )
        page.get_by_role("slider", name="Guided from log-SNR").press("Home")
        expect(error).to_have_count(0)
        page.set_viewport_size({"width": 400, "height": 900})
        controls = ("Guidance weight w", "Seed")
        w, seed = (page.get_by_role("slider", name=name).bounding_box()["y"] for name in controls)
        assert w < shown[0].bounding_box()["y"] < seed
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        sizes = page.evaluate("((each) => [each.scrollWidth, each.clientWidth])(telemetry)")
        assert sizes[0] >= shown[2].bounding_box()["width"] > 700 and sizes[1] < 400
        assert servers == {f"127.0.0.1:{port}"} and not errors
        page.close()
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 130, program
