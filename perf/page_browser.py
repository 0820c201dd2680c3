"""Time of an inspection page in Chromium: until it is ready, and after a choice.

    targetsft inspect --config FILE --rows 100 --out page.html
    python perf/page_browser.py page.html

Prints medians over fresh browser contexts. Needs the extra `browser` and Chromium.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

REPEATS = 7

_CHOICE = """(choice) => {
  const menu = document.getElementById(choice.menu);
  menu.value = choice.value;
  const start = performance.now();
  menu.dispatchEvent(new Event("change"));
  document.body.offsetHeight;
  return performance.now() - start;
}"""


def main() -> None:
    """Measure one page and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    path = parser.parse_args().page.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"],
        )
        runs = [_measure(browser, path) for _ in range(REPEATS)]
        browser.close()
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {runs[0]['labels']} labels"
    )
    for name in ("ready", "method", "colour"):
        median = statistics.median(run[name] for run in runs)
        print(f"| {name} | {median:.0f} ms |")


def _measure(browser: Browser, path: Path) -> dict[str, float]:
    """Milliseconds from the navigation to `ready`, and of two choices with layout."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(path.as_uri())
    page.wait_for_selector("body.ready")
    ready = page.evaluate("performance.getEntriesByName('ready')[0].startTime")
    labels = page.evaluate("document.querySelectorAll('#rows [data-n]').length")
    method = page.evaluate(_CHOICE, {"menu": "method", "value": "dft"})
    colour = page.evaluate(_CHOICE, {"menu": "colour", "value": "entropy"})
    page.context.close()
    return {"ready": ready, "labels": labels, "method": method, "colour": colour}


if __name__ == "__main__":
    main()
