"""What one sees and presses on the page."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect


def shows(page, row: str | None) -> None:
    """Wait until the page shows this row, or none."""
    if row is None:
        expect(page.locator("#pause")).to_be_visible()
    else:
        expect(page.locator("#text")).to_have_attribute("data-id", row)
        expect(page.locator("#work")).to_be_visible()


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
