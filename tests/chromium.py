"""Pages opened in a real browser, Chromium without a window."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Pixels of CSS of a usual phone, width and height.
PHONE = (390, 844)
#: Chromium's own windows are no narrower than 500 pixels; a frame can be.
FRAME = """<!DOCTYPE html>
<style>body { margin: 0 } iframe { display: block; border: 0 }</style>
<iframe src="%s" width="%d" height="%d"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument;
  const names = [...page.querySelectorAll("tbody th")].map((name) => name.offsetWidth);
  document.title = `${page.documentElement.scrollWidth} ${Math.max(0, ...names)}`;
});
</script>
"""


class Opened(NamedTuple):
    """The page after its script has run, and what Chromium logged."""

    dom: str
    log: str


class OnPhone(NamedTuple):
    """How a page looks on a phone.

    Attributes:
        width: that the page needs, ``scrollWidth``, in pixels of CSS.
        name_width: likewise the widest name of a table's row, which stays when the rest scrolls.
        screenshot: (H, W, 3) uint8 BGR, the screen before anyone scrolls.
        log: what Chromium logged.
    """

    width: int
    name_width: int
    screenshot: np.ndarray
    log: str


def open_page(page: Path, scratch: Path, *options: str) -> Opened:
    """Open a file; skips the test where there is no Chromium."""
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    if binary is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    done = subprocess.run(
        [
            binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--no-first-run", f"--user-data-dir={scratch}", "--enable-logging=stderr",
            *options, "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Opened(done.stdout, done.stderr)


def open_on_phone(page: Path, scratch: Path) -> OnPhone:
    """Open a file on a screen of :data:`PHONE`; skips the test where there is no Chromium."""
    width, height = PHONE
    scratch.mkdir(parents=True, exist_ok=True)
    frame, picture = scratch / "phone.html", scratch / "phone.png"
    frame.write_text(FRAME % (page.as_uri(), width, height))
    opened = open_page(
        frame, scratch / "profile", "--allow-file-access-from-files", "--hide-scrollbars",
        f"--window-size={width},{height}", f"--screenshot={picture}",
    )  # fmt: skip
    found = re.search(r"<title>(\d+) (\d+)</title>", opened.dom)
    assert found, opened.dom
    return OnPhone(int(found[1]), int(found[2]), cv2.imread(str(picture)), opened.log)


def check_on_phone(page: Path, scratch: Path) -> None:
    """Nothing is wider than the screen, tables can be read, and the console is empty."""
    seen = open_on_phone(page, scratch)
    assert console_lines(seen.log) == []
    assert seen.width <= PHONE[0] + 1, f"the page is {seen.width} pixels wide"
    assert 0 < seen.name_width <= PHONE[0] // 2, f"names take {seen.name_width} pixels"
    assert seen.screenshot.shape[:2] == PHONE[::-1]
    assert seen.screenshot.std() > 5


def console_lines(log: str) -> list[str]:
    """What the page, or the browser about the page, wrote to its console."""
    return [line for line in log.splitlines() if "CONSOLE" in line]
