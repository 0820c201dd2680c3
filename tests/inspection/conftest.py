"""Pages of tiny models; a headless Chromium that opens pages and records their acts."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.inspected import measured, models, rows_file

__all__ = ["measured", "models", "rows_file"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; tests are skipped without playwright or without Chromium."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="pip install targetsft-jax[browser]"
    )
    paths = [os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS)]
    path = next((path for path in paths if path), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open HTML from disk, offline; errors and requests beyond the file fail the test.

    `show(html, fragment="", width=1280, height=800, **context)` returns the page.
    """
    contexts, violations = [], []

    def open_page(
        html: str, fragment: str = "", width: int = 1280, height: int = 800, **options
    ):
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        size = {"width": width, "height": height}
        context = chromium.new_context(viewport=size, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: violations.append(f"error: {error}"))
        page.on("console", lambda line: violations.append(f"console: {line.text}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith("file:")
                or violations.append(f"request: {request.url}")
            ),
        )
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("body.ready, body.standalone", timeout=10_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not violations
