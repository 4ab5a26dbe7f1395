"""Chromium, for the tests in which the page is used."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP labels.example 127.0.0.1",
]
OURS = ("http://127.0.0.1:", "http://labels.example:")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser):
    """Opens pages; none of them may have had an error in a script, or have asked another machine for anything."""
    contexts, wrong = [], []

    def visit(url: str, annotator: str = "ann", *, context=None, **options):
        context = context or browser.new_context(**options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"a script ran: {dialog.message}"))
        page.on("request", lambda r: None if r.url.startswith(OURS) else wrong.append(r.url))
        page.goto(url + (f"&annotator={annotator}" if annotator else ""))
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong
