"""The page as a whole: self-contained, small, safe, written at once; and in a real browser."""

import json
import re
import shutil
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dynascope.report import page as page_module
from dynascope.report import write
from dynascope.report.page import LIMIT, embedded, page
from tests.report.builder import build
from tests.report.conftest import HOSTILE
from tests.report.test_markup import Seen


def test_one_file_without_a_network(report):
    seen = Seen(report.read_text())
    assert not {"iframe", "object", "embed", "form", "base"} & {name for name, _ in seen.elements}
    for name, attributes in seen.elements:
        assert "src" not in attributes, name
        assert not (attributes.get("href") or "#").startswith(("http", "//", "file")), attributes
        assert not [key for key in attributes if key.startswith("on") or key == "style"], attributes
    policy = next(a["content"] for n, a in seen.elements if n == "meta" and a.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none';")
    assert "unsafe" not in (policy or "")


def test_the_policy_allows_exactly_the_blocks_of_the_page(report):
    text = report.read_text()
    blocks = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert f"'sha256-{b64encode(sha256(block.encode()).digest()).decode()}'" in text


def test_every_number_names_a_source_that_exists(run, report):
    seen = Seen(report.read_text())
    sources = [attributes["data-source"] or "" for name, attributes in seen.elements if name == "data"]
    assert len(sources) > 100
    for source in sources:
        assert resolves(source, run), source


def resolves(source: str, run: Any) -> bool:
    """Whether a source names an entry of run.json, a scalar or columns that the run holds."""
    place = source.split("@")[0]
    if place.startswith("run.json#/"):
        node: Any = run.meta
        for key in place.removeprefix("run.json#/").split(", ")[0].split("/"):
            node = node[int(key)] if isinstance(node, list) else node[key]
        return True
    if place.startswith("scalars/"):
        return place.removeprefix("scalars/") in {*run.scalars, "*"}
    family, columns = place.rsplit("/", 1)
    known = [name for name in run.families if family in {name, "charges:*"}]
    names = {re.sub(r"\[\w+\]", "", column) for column in columns.split(", ")}
    return bool(known) and names <= set(run.families[known[0]]["columns"])


def test_sources_that_do_not_exist_do_not_resolve(run):
    assert not resolves("charges:none/value", run)
    assert not resolves(f"{next(iter(run.families))}/velocity", run)
    with pytest.raises((KeyError, IndexError)):
        resolves("run.json#/verdicts/999/error", run)


def test_hostile_names_stay_text(hostile):
    text = page(hostile)
    assert "<script>alert" not in text
    assert text.count("<script") == 3
    assert text.count("</script>") == 3
    assert HOSTILE in Seen(text).text


def test_embedded_json_reads_back_equal():
    data = {HOSTILE: ["</script>", "\u2028", "<!--", "&amp;"]}
    assert json.loads(embedded(data)) == data
    assert not set("<>&\u2028") & set(embedded(data))


def test_a_page_keeps_its_limit_by_drawing_fewer_points(content, monkeypatch):
    full = page(content)
    assert len(full.encode()) < LIMIT
    monkeypatch.setattr(page_module, "LIMIT", int(0.7 * len(full.encode())))
    small = page(content)
    assert len(small.encode()) <= 0.7 * len(full.encode())
    assert small.count('class="plot"') == full.count('class="plot"')


def test_default_place_and_rename(tmp_path):
    run = build(tmp_path / "r", steps=30, predicted=False)
    assert write(tmp_path / "r") == run.path / "report.html"
    first = (run.path / "report.html").read_text()
    assert write(run, tmp_path / "deep" / "x.html").read_text() == first
    assert not list(tmp_path.rglob("*.part"))


def test_a_failure_leaves_the_old_page_and_no_rest(tmp_path, monkeypatch):
    run = build(tmp_path / "r", steps=30, predicted=False)
    before = write(run).read_text()

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(page_module.os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write(run)
    assert (run.path / "report.html").read_text() == before
    assert not list(run.path.glob("*.part")) + list(run.path.glob(".*.part"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def opened(browser: Any, path: Path, *, width: int = 1280, **options: Any) -> tuple[Any, list[str]]:
    """The page in a fresh context, and everything that went wrong in it or went out of it."""
    view = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    wrong: list[str] = []
    view.on("console", lambda message: wrong.append(message.text))
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("request", lambda request: None if request.url == path.as_uri() else wrong.append(request.url))
    view.goto(path.as_uri())
    return view, wrong


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_browser_draws_every_chart_without_complaint(browser, report, width, scheme):
    view, wrong = opened(browser, report, width=width, color_scheme=scheme)
    boxes = view.locator(".plot")
    for index in range(boxes.count()):
        boxes.nth(index).scroll_into_view_if_needed()
        boxes.nth(index).locator("canvas").wait_for()
    assert boxes.count() == 10
    inked = view.evaluate(
        "[...document.querySelectorAll('canvas')].map(c => new Set("
        "new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size > 20)"
    )
    assert inked == [True] * 10
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []


@pytest.mark.browser
def test_browser_theme_toggles_and_chart_by_keyboard(browser, report):
    view, wrong = opened(browser, report, color_scheme="light")
    plot = view.locator(".plot").first
    plot.scroll_into_view_if_needed()
    plot.locator("canvas").wait_for()
    reached: list[str] = []
    for _ in range(60):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.id || document.activeElement.className"))
        if reached[-1] == "toggle":
            break
    assert {"skip", "theme", "plot", "toggle"} <= set(reached)
    view.keyboard.press("Space")
    assert view.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    plot.focus()
    view.keyboard.press("Home")
    assert view.locator("[data-at]").first.inner_text() == "at step 0"
    assert view.locator("#announce").inner_text().startswith("step 0: median ")
    view.locator("#theme").focus()
    before = view.evaluate("getComputedStyle(document.body).backgroundColor")
    view.keyboard.press("Enter")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert view.locator("#theme").get_attribute("aria-label") == "Switch to light colours"
    assert wrong == []


@pytest.mark.browser
def test_browser_readout_is_the_archive(browser, report, run, content):
    view, _ = opened(browser, report)
    family = content.families[0]
    line = next(line for line in family.lines.lines if line.row == "largest")
    plot = view.locator("#family-0 .plot")
    plot.scroll_into_view_if_needed()
    plot.locator("canvas").wait_for()
    plot.focus()
    view.keyboard.press("Home")
    shown = view.locator("#family-0 .readout tbody tr").nth(1).locator("td").first.inner_text()
    stored = run.series(family.key, "value").values[0, line.neuron]
    assert float(shown) == pytest.approx(stored, rel=1e-4)  # five significant digits are shown


@pytest.mark.browser
def test_browser_saves_the_numbers(browser, report):
    view, wrong = opened(browser, report, accept_downloads=True)
    with view.expect_download() as waiting:
        view.locator("#download").click()
    saved = json.loads(Path(waiting.value.path()).read_text())
    assert waiting.value.suggested_filename == "vgg-fashion.json"
    assert len(saved["charts"]) == 10
    assert [entry for entry in wrong if not entry.startswith("blob:")] == []


@pytest.mark.browser
def test_browser_runs_nothing_of_a_hostile_run(browser, hostile, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(page(hostile))
    dialogs: list[str] = []
    view, wrong = opened(browser, path, width=390)
    view.on("dialog", lambda dialog: dialogs.append(dialog.message))
    view.wait_for_timeout(200)
    assert (dialogs, wrong) == ([], [])
    assert view.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_browser_policy_stops_a_script_that_was_smuggled_in(browser, report, tmp_path):
    path = tmp_path / "smuggled.html"
    path.write_text(report.read_text().replace("<main", "<script>document.title = 'owned'</script><main", 1))
    view, wrong = opened(browser, path)
    assert view.title() != "owned"
    assert any("Content Security Policy" in entry for entry in wrong)


@pytest.mark.browser
def test_browser_labels_for_screen_readers(browser, report):
    view, _ = opened(browser, report)
    assert view.title() == "vgg-fashion: Every account balances."
    unnamed = view.evaluate(
        "[...document.querySelectorAll('button, a, [role=img], [role=group], [role=region], section, nav')]"
        ".filter(e => !['aria-label', 'aria-labelledby'].some(a => e.getAttribute(a)) && !e.textContent.trim())"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    assert view.evaluate("[...document.querySelectorAll('table')].every(t => t.querySelector('caption'))")
    assert view.evaluate("[...document.querySelectorAll('th')].every(t => t.scope)")
