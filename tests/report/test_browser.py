"""The page in a real Chromium: nothing on the console, nothing asked of a network, nothing wider than the window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrs.report.build import build, own_scores
from openrs.report.claims import ledger
from openrs.report.page import page
from tests.report.browser import Browser, available
from tests.report.runs import whole_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not available() and not os.environ.get("OPENRS_REQUIRE_BROWSER"),
        reason="needs Debian's chromium and chromium-driver",
    ),
]

OVERFLOWING = """
const wide = document.documentElement.clientWidth + 0.5;
const inside = e => { for (let p = e; p; p = p.parentElement) {
  const o = getComputedStyle(p).overflowX; if (o === 'auto' || o === 'scroll') return true } return false };
const found = document.documentElement.scrollWidth > wide ? ['page ' + document.documentElement.scrollWidth] : [];
for (const e of document.querySelectorAll('body *')) {
  const b = e.getBoundingClientRect();
  if (b.width && (b.right > wide || b.left < -0.5) && !inside(e)) found.push(e.tagName + ' ' + e.textContent.slice(0, 40) + ' ' + b.right);
}
for (const e of document.querySelectorAll('figure svg text')) {
  const t = e.getBoundingClientRect(), s = e.closest('figure').getBoundingClientRect();
  if (t.right > s.right + 4 || t.left < s.left - 4) found.push('in figure: ' + e.textContent);
}
return found;
"""
CONTRAST = """
const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = c => { const [r, g, b] = rgb(c).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const paper = light(getComputedStyle(document.querySelector('section')).backgroundColor);
const ratio = e => { const a = light(getComputedStyle(e).color); return (Math.max(a, paper) + 0.05) / (Math.min(a, paper) + 0.05) };
return ['section p', '.detail', '.chip', 'h2', 'td', 'summary'].map(s => document.querySelector(s)).filter(e => e).map(ratio);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of ours, the worked example with the ledger, and a run with nothing in it."""
    home = tmp_path_factory.mktemp("pages")
    whole_run(home / "mine", gain=0.2)
    (home / "empty" / "eval").mkdir(parents=True)
    found = {}
    for name, sources in (
        ("run", ["mine"]),
        ("example", ["example:open-rs"]),
        ("empty", ["empty"]),
        ("two", ["mine", "example:open-rs"]),
    ):
        report = build(home, sources)
        found[name] = home / f"{name}.html"
        found[name].write_text(page(report, ledger(own_scores(report)) if name == "example" else ()))
    return found


@pytest.mark.parametrize("width", [380, 820, 1400])
@pytest.mark.parametrize("name", ["run", "example", "empty", "two"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_overflows_and_nothing_complains(
    browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    browser.requests()
    browser.open(pages[name], width, dark=dark)
    browser.script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.script(OVERFLOWING) == []
    assert browser.console() == []
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "chrome:"))] == []
    assert min(browser.script(CONTRAST)) >= 4.5


def test_figures_are_as_wide_as_they_need_and_readable_on_a_phone(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["example"], 380)
    sizes = browser.script(
        "return [...document.querySelectorAll('figure svg')].map(s => "
        "Math.min(...[...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height)))"
    )
    assert len(sizes) >= 5 and min(sizes) >= 9


def test_the_style_is_understood(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["run"], 800)
    assert "sans-serif" in browser.script("return getComputedStyle(document.querySelector('h1')).fontFamily")
    assert "monospace" in browser.script("return getComputedStyle(document.querySelector('pre')).fontFamily")


def test_on_paper_everything_is_open(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["run"], 800, media="print")
    assert browser.script("return getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    printed = browser.cdp("Page.printToPDF", printBackground=True)
    assert len(printed["data"]) > 20_000
