"""The whole loop by each way in which labels can come: the same selections, labels and target as a simulation's.

The way through Label Studio is in tests/label_studio, for it needs a server of 1 GB.
"""

from __future__ import annotations

import csv
import json

import pytest
from label_runs import served
from scripted_labeler import INITIAL, SIZES, hire, svp
from small_run import outcome

from svp_nlp.labeling.queue import LabelQueue


@pytest.fixture(scope="module")
def labeler(tmp_path_factory):
    return hire(tmp_path_factory.mktemp("labeler"))


@pytest.fixture(scope="module")
def simulated(labeler):
    return labeler.simulated()


def test_through_a_spreadsheet(labeler, simulated, tmp_path):
    run, sheet, asked = tmp_path / "run", tmp_path / "sheet.csv", []
    while (code := svp("run", labeler.recipe("sheets"), "--run-dir", run)[0]) == 3:
        assert svp("label", "export", run, "--to", "csv", "--output", sheet, "--overwrite")[0] == 0
        with sheet.open(newline="", encoding="utf-8-sig") as file:
            columns, *rows = csv.reader(file)
        asked.append(len(rows))
        for row in rows:
            row[columns.index("label")] = labeler.truth[row[columns.index("text")]]
        with sheet.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([columns, *sorted(rows)])  # people sort their sheets
        assert svp("label", "import", run, sheet, "--annotator", "ann")[0] == 0
    assert code == 0
    assert asked == [INITIAL, SIZES[0] - INITIAL, SIZES[1] - SIZES[0]]
    assert outcome(run) == simulated


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_the_page(labeler, simulated, tmp_path, visitor):
    from page_use import expect, press, shows

    run = tmp_path / "run"
    recipe = labeler.recipe("page")
    assert svp("run", recipe, "--run-dir", run)[0] == 3
    keys = {name: str((at + 1) % 10) for at, name in enumerate(labeler.class_names[:10])}
    with served(run) as url:
        page = visitor(url)
        for round, size in enumerate([INITIAL, SIZES[0] - INITIAL, SIZES[1] - SIZES[0]]):
            expect(page.locator("#round")).to_have_text(f"Round {round}: 0 of {size}", timeout=120_000)
            for row in LabelQueue.open(run).requests[round].rows:
                shows(page, row.id)
                assert page.locator("#text").text_content() == row.text
                label = labeler.truth[row.text]
                if label in keys:
                    press(page, keys[label])
                else:
                    press(page, "/")
                    page.keyboard.insert_text(label)
                    press(page, "Enter")
            shows(page, None)
            expect(page.locator("#pause-title")).to_have_text(f"Round {round} is full", timeout=60_000)
            if round == 1:  # somebody does it at the terminal meanwhile, and the page goes on by itself
                assert svp("run", recipe, "--run-dir", run)[0] == 3
                continue
            page.get_by_role("button", name="Train and continue").click()
            expect(page.locator("#pause-title")).to_have_text("Training")
        expect(page.locator("#pause-title")).to_have_text("Done", timeout=120_000)
        with page.expect_popup() as report:
            page.get_by_role("link", name="Open the report").click()
        expect(report.value.locator("h1")).to_be_visible()
    assert outcome(run) == simulated
    assert json.loads(svp("status", run, "--format", "json")[1])["people"]["labelled"] == SIZES[-1]
