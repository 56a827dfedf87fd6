"""Pages opened in a real browser, Chromium without a window."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Opened(NamedTuple):
    """The page after its script has run, and what Chromium logged."""

    dom: str
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


def console_lines(log: str) -> list[str]:
    """What the page, or the browser about the page, wrote to its console."""
    return [line for line in log.splitlines() if "CONSOLE" in line]
