"""The page in a real browser, at the width of a desktop and of a telephone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = (390, 1400)
_NO_ORIGIN = "not an origin"
MakePage = Callable[..., str]

# Runs inside a copy of the page, in a frame as wide as the screen would be, and tells the page around.
INSIDE = """
<script>
addEventListener("load", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  const root = document.documentElement, wrong = [];
  if (root.scrollWidth > root.clientWidth) wrong.push(`page: ${root.scrollWidth} > ${root.clientWidth}`);
  for (const one of document.body.querySelectorAll("*:not(svg *)")) {
    if (one.closest(".skip")) continue;
    const box = one.closest(".scroll"), at = one.getBoundingClientRect();
    if (box && box !== one) continue;
    if (at.left < -0.5 || at.right > root.clientWidth + 0.5) wrong.push(`outside: ${one.tagName} ${one.className}`);
    if (!box && one.scrollWidth > one.clientWidth + 1 && one.clientWidth) wrong.push(`cut: ${one.tagName}`);
  }
  const room = document.querySelector("main").clientWidth;
  for (const one of document.querySelectorAll("figure"))
    if (one.clientWidth < room * 0.45) wrong.push(`narrow: ${one.clientWidth} of ${room}`);
  for (const picture of document.querySelectorAll("svg")) {
    const edge = picture.getBoundingClientRect(), words = [...picture.querySelectorAll("text")];
    const places = words.map(one => one.getBoundingClientRect());
    places.forEach((at, i) => {
      const name = `"${words[i].textContent}"`;
      if (at.left < edge.left - 1 || at.right > edge.right + 1 || at.top < edge.top - 1 ||
          at.bottom > edge.bottom + 1) wrong.push(`cut: ${name}`);
      for (let j = 0; j < i; j++) {
        const other = places[j];
        if (at.left < other.right - 1 && other.left < at.right - 1 &&
            at.top < other.bottom - 4 && other.top < at.bottom - 4)
          wrong.push(`overlap: ${name} and "${words[j].textContent}"`);
      }
    });
  }
  const small = Math.min(...[...document.querySelectorAll("svg")].map(
    one => 13 * one.getBoundingClientRect().width / one.viewBox.baseVal.width));
  parent.postMessage({wrong, small, charts: document.querySelectorAll("svg").length,
    asked: performance.getEntriesByType("resource").map(one => one.name)}, "*");
});
</script>
"""
AROUND = """<!doctype html><body style="margin:0">
<iframe src="copy.html" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="told"></pre>
<script>addEventListener("message", told => {{
  document.getElementById("told").textContent = JSON.stringify(told.data);
}});</script>
"""


@pytest.fixture(scope="session")
def browser() -> str:
    """A Chromium, by whichever name."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser to look at the page with: install one of {', '.join(BROWSERS)}")
    return found


def open_page(browser: str, folder: Path, page: Path, *options: str) -> tuple[str, str]:
    """The page's elements after it was loaded, and what the browser logged."""
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",  # containers run as root
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={folder / 'net.json'}",
            "--virtual-time-budget=5000",
            *options,
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


def complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


def requested(folder: Path) -> set[str]:
    """Everything that a page asked for over the network, whether or not it came."""
    log = json.loads((folder / "net.json").read_text())
    asked = [event["params"] for event in log["events"] if "params" in event]
    # What the browser asks for on its own account has no origin.
    return {one["url"] for one in asked if one.get("initiator", _NO_ORIGIN) != _NO_ORIGIN}


def look(browser: str, folder: Path, page: str, width: int) -> Any:
    """What the script inside a copy of ``page`` found at ``width``."""
    # The page's own policy would refuse the script that looks at it.
    open_copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (folder / "copy.html").write_text(open_copy.replace("</body>", f"{INSIDE}</body>"))
    around = folder / "around.html"
    around.write_text(AROUND.format(width=width))
    elements, _ = open_page(browser, folder, around, "--window-size=1400,1000")
    told = re.search('<pre id="told">(.+?)</pre>', elements)
    assert told is not None
    return json.loads(html.unescape(told[1]))


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_or_overlaps(
    browser: str, tmp_path: Path, make_page: MakePage, width: int
) -> None:
    seen = look(browser, tmp_path, make_page(), width)
    assert seen["wrong"] == []
    assert seen["asked"] == []
    assert seen["charts"] == 11
    assert seen["small"] >= 9  # pixels: the letters of the smallest chart


def test_long_names_break_nothing(browser: str, tmp_path: Path, make_page: MakePage) -> None:
    seen = look(browser, tmp_path, make_page("long-name-" * 30), 390)
    assert seen["wrong"] == []


def test_it_loads_without_a_complaint_or_a_request(
    browser: str, tmp_path: Path, make_page: MakePage
) -> None:
    make_page()
    page = tmp_path / "report.html"
    elements, log = open_page(browser, tmp_path, page)
    assert "Machine and provenance" in elements
    assert complaints(log) == []
    assert requested(tmp_path) == set()


def test_hostile_names_run_nothing(browser: str, tmp_path: Path, make_page: MakePage) -> None:
    page = make_page("<script>console.error('ran')</script><img src='https://example.invalid/x'>")
    path = tmp_path / "report.html"
    path.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page))
    _, log = open_page(browser, tmp_path, path)
    assert complaints(log) == []
    assert requested(tmp_path) == set()


def test_a_faulty_page_is_noticed(browser: str, tmp_path: Path, make_page: MakePage) -> None:
    """The checks above can fail: each is shown what it looks for."""
    faults = (
        "<div style='width:3000px'>wide</div><figure style='width:100px'>narrow</figure>"
        "<svg viewBox='0 0 100 20'><text x='0' y='15'>one</text><text x='2' y='15'>two</text>"
        "<text x='95' y='15'>cut off</text></svg>"
        "<script>console.error('complaint')</script><img src='http://127.0.0.1:9/x.png'>"
    )
    seen = look(browser, tmp_path, make_page().replace("</main>", f"{faults}</main>"), 390)
    found = " ".join(seen["wrong"])
    for fault in (
        "page: ",
        "narrow: ",
        "outside: DIV",
        'overlap: "two" and "one"',
        'cut: "cut off"',
    ):
        assert fault in found
    page = tmp_path / "faulty.html"
    page.write_text(f"<!doctype html><body>{faults}</body>")
    _, log = open_page(browser, tmp_path, page)
    assert complaints(log)
    assert "http://127.0.0.1:9/x.png" in requested(tmp_path)
