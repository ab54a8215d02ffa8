"""A real Chromium, without a window and without anything that it would send or fetch by itself."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from dashboards.web.app import create_app, create_server
from storage.lake import Lake

__all__ = ["missing_browser", "open_browser", "serving"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
    " --autoplay-policy=no-user-gesture-required --force-device-scale-factor=1"
)


def missing_browser() -> str | None:
    """Why there is no browser to test with; None where there is one."""
    if not any(map(shutil.which, _NAMES)):
        return f"no browser: none of {', '.join(_NAMES)} is installed"
    return None if shutil.which("chromedriver") else "no chromedriver is installed"


@contextmanager
def open_browser(profile: Path, size_px: tuple[int, int] = (1440, 1400)) -> Iterator[webdriver.Chrome]:
    """A browser with a fresh profile; its log has console messages and every request."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(path for path in map(shutil.which, _NAMES) if path)
    for flag in _FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument(f"--window-size={size_px[0]},{size_px[1]}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    os.environ["SE_OFFLINE"], os.environ["SE_AVOID_STATS"] = "true", "true"  # selenium's own manager stays at home
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def serving(lake: Lake, **settings: Any) -> Iterator[str]:
    """The dashboard of a lake in a thread; gives its address."""
    server = create_server(create_app(lake, **settings), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
