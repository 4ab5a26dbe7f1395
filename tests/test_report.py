"""The report: statistics against hand-made numbers, merging of runs, and a page that shows anything unbroken."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_demo import demo_run
from rich.console import Console

from svp_nlp import report_format as fmt
from svp_nlp.errors import RunRefused
from svp_nlp.report import console_table, jsonable, markdown, summarize, write_report
from svp_nlp.report_charts import Frame, Line, line_chart, nice_ticks, shorten, spread_labels
from svp_nlp.report_html import render_page, series_styles
from svp_nlp.report_merge import Series
from svp_nlp.report_statistics import Stat, clear_difference, label_savings, overlap_z, stat

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects elements, attributes and the visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.seen.append(data)


def page_of(*runs) -> Page:
    return Page(render_page(runs, summarize(runs)))


def demo(**options):
    """A small run: every section is there, little is repeated."""
    return demo_run(**{"seeds": (0, 1), "strategies": ("entropy",), "sizes": (100, 200, 400), **options})


# statistics


def test_mean_and_sample_deviation_over_seeds() -> None:
    run = demo(seeds=(3, 5))
    point = summarize([run]).at(Series("proxy", "entropy"), 400)
    errors = [row["error"] for row in run["rows"] if row["selector"] == "proxy" and row["labeled_size"] == 400]
    assert point is not None
    assert point.error == Stat(pytest.approx(np.mean(errors)), pytest.approx(np.std(errors, ddof=1)), 2)
    assert point.seeds == (3, 5)


def test_a_single_value_has_no_spread_and_what_is_no_number_is_left_out() -> None:
    assert stat([0.5, None, math.nan, math.inf]) == Stat(0.5, None, 1)
    assert stat([None, math.nan]) is None


def test_speedup_is_the_ratio_of_the_same_seed() -> None:
    run = demo()
    for row in run["rows"]:
        if row["labeled_size"] == 400:
            seconds = {"proxy": 2.0, "random": 0.0, "target_selects": 20.0 * (1 + row["seed"])}[row["selector"]]
            row["selection_seconds"], row["total_seconds"] = seconds, seconds + 8
    point = summarize([run]).at(Series("proxy", "entropy"), 400)
    assert point is not None
    assert point.selection_speedup == Stat(15.0, pytest.approx(math.sqrt(50)), 2)
    assert point.total_speedup is not None
    assert point.total_speedup.mean == pytest.approx((28 / 10 + 48 / 10) / 2)


def test_no_baseline_or_no_selection_means_no_speedup() -> None:
    summary = summarize([demo(selectors=("proxy", "random"))])
    assert all(point.selection_speedup is None and point.total_speedup is None for point in summary.points)
    start = summarize([demo()]).at(Series("proxy", "entropy"), 100)
    assert start is not None
    assert start.selection_speedup is None
    assert start.total_speedup is None
    assert start.savings is None


@pytest.mark.parametrize(
    ("error", "size", "expected"),
    [
        (0.25, 150, ("exact", 250, 100)),
        (0.30, 300, ("exact", 200, -100)),
        (0.20, 300, ("exact", 300, 0)),
        (0.40, 100, ("exact", 100, 0)),
        (0.19, 200, ("more_than", 300, 100)),
        (0.50, 200, ("at_most", 100, -100)),
    ],
)
def test_label_savings_by_hand(error: float, size: int, expected: tuple) -> None:
    found = label_savings(error, size, [(100, 0.4), (200, 0.3), (300, 0.2)])
    assert (found.bound, found.random_labels, found.saved) == (
        expected[0],
        pytest.approx(expected[1]),
        pytest.approx(expected[2]),
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
@settings(deadline=None)
def test_label_savings_is_the_first_crossing_of_the_curve(errors: list[float], error: float) -> None:
    curve = [(100.0 * (i + 1), e) for i, e in enumerate(errors)]
    found = label_savings(error, 100, curve)
    if found.bound == "more_than":
        assert min(errors) > error
    else:
        before = [e for size, e in curve if size < found.random_labels - 1e-6]
        assert all(e > error or math.isclose(e, error) for e in before)
    if found.bound == "exact":
        reached = np.interp(found.random_labels, *np.array(curve).T)
        assert reached == pytest.approx(error, abs=1e-6)


def test_overlap_z_agrees_with_random_draws() -> None:
    rng = np.random.default_rng(0)
    budget, candidates = 30, 200
    overlaps = [len(set(rng.permutation(candidates)[:budget]) & set(range(budget))) / budget for _ in range(3_000)]
    scores = [overlap_z(overlap, budget, candidates) for overlap in overlaps]
    assert np.mean(scores) == pytest.approx(0, abs=0.06)
    assert np.std(scores) == pytest.approx(1, abs=0.06)
    assert overlap_z(1.0, 10, 10) is None
    assert overlap_z(0.0, 0, 10) is None


def test_a_proxy_no_better_than_chance_is_warned_about() -> None:
    run = demo()
    for entry in run["agreement"]:
        entry["overlap"] = entry["chance"] if entry["labeled_size"] == 400 else 0.1
    summary = summarize([run])
    assert [entry.no_better_than_chance for entry in summary.agreement] == [False, True]
    assert re.search(r"proxy · entropy agrees .* no better than chance at 400 labels", summary.warnings[0])
    for entry in run["agreement"]:
        entry.update(overlap=0.9, spearman=-0.1)
    assert all(entry.no_better_than_chance for entry in summarize([run]).agreement)


def test_differences_need_more_than_one_seed_to_be_clear() -> None:
    assert clear_difference(Stat(0.1, None, 1), Stat(0.2, 0.01, 3)) is None
    assert clear_difference(Stat(0.1, 0.01, 3), Stat(0.2, 0.01, 3)) is True
    assert clear_difference(Stat(0.1, 0.05, 3), Stat(0.11, 0.05, 3)) is False


# merging runs


def test_runs_that_differ_in_seeds_only_become_one() -> None:
    one, two = demo(seeds=(0,)), demo(seeds=(1,))
    summary = summarize([one, two])
    assert {series.label for series in summary.series} == {"proxy · entropy", "random", "target · entropy"}
    assert all(point.seeds == (0, 1) for point in summary.points)


def test_runs_with_other_proxies_stay_apart_and_share_random() -> None:
    one, two = demo(name="a"), demo(name="b", selectors=("proxy",))
    two["recipe"]["proxy"] = {"kind": "vdcnn", "depth": 9}
    summary = summarize([one, two])
    labels = [series.label for series in summary.series]
    assert labels == ["proxy · entropy (a)", "proxy · entropy (b)", "random", "target · entropy"]
    other = summary.at(summary.series[1], 400)
    assert other is not None
    assert other.savings is not None
    assert other.selection_speedup is not None
    assert fmt.target_selects(summary, other) is not None
    for row in two["rows"]:
        row["error"] -= 0.2
    assert fmt.headline(summarize([one, two]), [one, two]).startswith("VDCNN-9 with entropy, the best of 2 tried,")
    page_of(one, two)


def test_times_of_different_machines_are_not_compared() -> None:
    one, two = demo(selectors=("proxy",)), demo(selectors=("target_selects",))
    two["machine"] = {**two["machine"], "gpu": "one"}
    summary = summarize([one, two])
    assert all(point.selection_speedup is None for point in summary.points)
    assert any("different machines" in text for text in summary.warnings)


def test_the_same_seed_twice_counts_once() -> None:
    one, two = demo(), demo()
    for row in two["rows"]:
        row["error"] += 0.01
    summary = summarize([one, two])
    assert all(point.error is not None and point.error.seeds == 2 for point in summary.points)
    assert any("with different errors; the first is used" in text for text in summary.warnings)
    assert summary.names == ("docstrings", "docstrings #2")


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [("pool", "fingerprint", "other"), ("test", "rows", 1), ("pool", "class_names", ["a", "b"])],
)
def test_other_pools_and_test_sets_are_refused(what: str, key: str, value) -> None:
    one, two = demo(name="a"), demo(name="b")
    two[what][key] = value
    with pytest.raises(RunRefused, match=rf"{what}\.{key} is .* in run 'a' but .* in run 'b'.*one by one"):
        summarize([one, two])


def test_no_run_and_other_formats_are_refused() -> None:
    with pytest.raises(RunRefused, match="no run to report on"):
        summarize([])
    with pytest.raises(RunRefused, match="has format 2"):
        summarize([{**demo(), "format": 2}])


# what is said


def test_headline_says_what_was_chosen_gained_and_paid() -> None:
    run = demo(sizes=(1_200, 6_000, 12_000))
    text = fmt.headline(summarize([run]), [run])
    assert re.match(
        r"fastText with entropy chose 12,000 of 60,000 rows \(20 %\); VDCNN-9 trained on them is wrong on", text
    )
    assert "at random" in text
    assert "the target choosing for itself takes" in text


def test_headline_is_honest_when_random_wins() -> None:
    run = demo(random_gain=0.2)
    assert "choosing did not help here" in fmt.headline(summarize([run]), [run])
    run = demo(random_gain=0.2, seeds=(0,))
    assert "choosing did not help here (one seed: may be chance)" in fmt.headline(summarize([run]), [run])


def test_headline_without_target_says_so() -> None:
    run = {**demo(), "rows": [], "training": [], "agreement": [], "test": None}
    assert "No target was trained" in fmt.headline(summarize([run]), [run])
    assert "No target was trained" in page_of(run).text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (0.024, "0.02 s"), (0.997, "1.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
     (3_599.6, "1 h 00 min"), (7_440, "2 h 04 min"), (math.nan, "–"), (None, "–")],
)  # fmt: skip
def test_durations(seconds: float | None, expected: str) -> None:
    assert fmt.duration(seconds) == expected


# files


def test_write_report_writes_its_files_and_json_has_one_row_each(tmp_path: Path) -> None:
    run = demo()
    paths = write_report([run], tmp_path / "report")
    names = ["report.html", "report.json", "report.md", "report.png"]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == names
    value = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert len(value["rows"]) == len(run["rows"]) == 2 * 3 * 3
    assert {"seed", "selector", "strategy", "labeled_size", "error", "proxy_seconds", "series"} <= set(value["rows"][0])
    assert value["summary"][-1]["total_speedup"] is None
    assert value["rounds"][0]["run"] == "docstrings"


def test_numbers_that_are_none_or_nan_are_null_in_json_and_an_en_dash_elsewhere(tmp_path: Path) -> None:
    run = demo(selectors=("proxy", "random"))
    for row in run["rows"]:
        row.update(
            macro_f1=float("nan"), error=np.float32(row["error"]), target_seconds=None, metrics={"mcc": math.nan}
        )
    for entry in run["agreement"]:
        entry.update(spearman=None, overlap=float("nan"))
    run["pool"].update(class_counts=None, blank=None)
    run["machine"]["gpu"] = None
    for pick in run["picks"][0]["highest"]:
        pick.update(score=None, label=None)
    paths = write_report([run], tmp_path)
    assert "NaN" not in paths["json"].read_text()
    for kind in ("html", "md"):
        source = paths[kind].read_text(encoding="utf-8")
        visible = Page(source).text if kind == "html" else source
        visible = visible.split("Recipe and machine Recipe")[0]
        assert not re.search(r"\b(nan|None|inf)\b", visible)
        assert "–" in visible


def test_jsonable_takes_numpy_and_tuples() -> None:
    value = {"a": (np.int64(1), np.float64(math.inf)), 2: np.array([True]), "path": Path("x")}
    assert jsonable(value) == {"a": [1, None], "2": [True], "path": "x"}


# the page

EVIL = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)>]]>`|*_{{ 7*7 }}{% raw %}\n---\n&amp;'


def evil_run():
    run = demo(name=EVIL, classes=[EVIL, "b"], text=EVIL * 20, strategies=(EVIL,))
    run["warnings"] = [EVIL]
    run["recipe"]["proxy"]["kind"] = run["recipe"]["target"]["kind"] = EVIL
    run["pool"]["path"] = run["test"]["path"] = run["machine"]["cpu"] = run["created"] = run["svp_nlp"] = EVIL
    for row in run["rows"]:
        row["metrics"][EVIL] = 0.5
    for entry in run["lineage"]:
        entry.update(proxy_spec=EVIL, proxy_fingerprint=EVIL, parent=EVIL)
        entry["options"] = {"reduce": {"kind": EVIL}, "scored_rows": EVIL, "prefilter": EVIL, "candidate_rows": EVIL}
    return run


def test_nothing_from_the_data_becomes_markup() -> None:
    page = page_of(evil_run())
    assert not {tag for tag, _ in page.elements} & {"script", "img", "iframe", "object", "link"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert" in page.text
    assert "{{ 7*7 }}" in page.text


def test_nothing_from_the_data_becomes_markdown() -> None:
    run = evil_run()
    source = markdown([run], summarize([run]))
    assert "<script" not in source
    assert "\n---\n&" not in source
    cells = {
        line.replace("\\\\", "").replace("\\|", "").count("|") for line in source.splitlines() if line.startswith("| l")
    }
    assert len(cells) <= 1


@pytest.mark.parametrize("text", ["see https://example.org/a.png", "url(http://example.org)"])
def test_the_page_loads_nothing_from_anywhere(text: str) -> None:
    run = demo(text=text)
    source = render_page([run], summarize([run]))
    page = Page(source)
    links = [
        value for _, attributes in page.elements for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background")
    ]  # fmt: skip
    assert all(value is not None and value.startswith("#") for value in links)
    style = source[source.index("<style>") : source.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {value[1:] for value in links if value} <= ids


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": (0,)},
        {"selectors": ("proxy",)},
        {"selectors": ("random",)},
        {"sizes": (400,)},
        {"sizes": (400,), "mode": "core_set", "seeds": (0,), "selectors": ("proxy",)},
        {"classes": [f"intent {i:03d}" for i in range(151)]},
        {"classes": ["a very long label " * 30, "b"]},
        {"classes": ["إيجابي", "שלילי"], "text": "نص عربي من اليمين إلى اليسار " * 30},
        {"text": "NUL \x00 and \u2028 and a tab\t" + "x" * 20_000},
        {"text": ""},
        {"strategies": tuple(f"strategy {i}" for i in range(7)), "seeds": (0,)},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_shape_of_run_renders(options: dict, tmp_path: Path) -> None:
    paths = write_report([demo(**options)], tmp_path)
    source = paths["html"].read_text(encoding="utf-8")
    page = Page(source)
    assert "\x00" not in source
    assert ("One seed: no spread" in page.text) == (options.get("seeds") == (0,))
    assert any("class" in attributes and attributes["class"] == "dots" for _, attributes in page.elements)
    assert not re.search(r"\bnan\b", source)


def test_a_run_with_nothing_in_it_renders(tmp_path: Path) -> None:
    bare = {"format": 1, "name": "bare", "mode": "core_set"}
    write_report([bare], tmp_path)
    assert console_table(summarize([bare])).row_count == 0


def test_a_hub_token_does_not_travel_with_a_report(tmp_path: Path) -> None:
    token = "hf_" + "A1b2C3d4E5" * 3
    run = demo(text=f"my token is {token}")
    run["recipe"]["pool"]["path"] = run["warnings"][0] = f"https://user:{token}@hub"
    for path in write_report([run], tmp_path).values():
        assert token.encode() not in path.read_bytes()


def test_the_page_tells_which_rows_were_looked_at_and_which_were_never_learned() -> None:
    run = demo(strategies=("margin",))
    assert "Rows looked at" not in page_of(run).text
    run["lineage"][-1]["options"] = {"reduce": {"kind": "seals"}, "scored_rows": 78, "drawn_at_random": 76}
    run["lineage"][0]["options"] = {"prefilter": "margin", "candidates": 60, "candidate_rows": 60}
    for entry in run["picks"]:
        entry["highest"][0] |= {"score": None, "never_learned": True}
    text = page_of(run).text
    assert "78 by seals, 76 of them drawn at random" in text and "60 highest by margin" in text
    assert "never learned" in text


def test_a_long_text_is_cut_and_says_so() -> None:
    page = page_of(demo(text="word " * 100_000))
    assert "496,000 more characters are left out" in page.text


# charts


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(3, 9))
@settings(deadline=None)
def test_ticks_are_few_inside_and_increasing(low: float, width: float, most: int) -> None:
    ticks = nice_ticks(low, low + width, most)
    assert 1 <= len(ticks) <= most
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
@settings(deadline=None)
def test_labels_do_not_touch_and_keep_their_order(wanted: list[float]) -> None:
    placed = spread_labels(wanted, 0, 300)
    gaps = np.diff(sorted(placed))
    assert (gaps >= 16 - 1e-6).all()
    assert [placed[i] for i in np.argsort(wanted, kind="stable")] == sorted(placed)


def test_a_line_of_one_point_and_no_line_at_all_are_drawn() -> None:
    for lines in ([], [Line("a<b", "s0", [(5.0, 1.0, None)])]):
        source = str(line_chart(lines, Frame(300, 200), x_title="x", y_title="y", description="d"))
        Page(source)
        assert "nan" not in source


def test_shorten_keeps_both_ends() -> None:
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert shorten("abc", 7) == "abc"


# the terminal


@pytest.mark.parametrize("ascii_only", [False, True])
def test_terminal_table_fits_80_columns_and_cuts_no_number(ascii_only: bool) -> None:
    run = demo_run(strategies=("least_confidence",), usable=4_000_000, sizes=(72_000, 360_000, 1_800_000))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(console_table(summarize([run]), ascii_only=ascii_only))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert re.search(r"\d+x / \d+\.\dx" if ascii_only else r"\d+× / \d+\.\d×", shown)
    assert shown.isascii() == ascii_only
    assert "1,800,000" in shown


def test_a_long_name_is_broken_where_its_words_end_and_stands_beside_the_sizes() -> None:
    run = demo_run(strategies=("greedy_k_centers-of-200-by-margin", "aum"), selectors=("proxy", "random"))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(console_table(summarize([run])))
    shown = console.export_text()
    begun = [line.split("  ")[0] for line in shown.splitlines() if line.strip() and not line.startswith(" ")]
    assert begun == ["Selected by", "proxy · aum", "proxy ·", "greedy_k_centers-of-", "200-by-margin", "random"]
    assert max(map(len, shown.splitlines())) <= 80


@given(st.text("ab_- ", max_size=40), st.integers(2, 12))
def test_broken_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    lines = fmt.broken(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_ten_strategies_have_ten_colours_and_random_stands_first() -> None:
    names = tuple(f"strategy_{number}" for number in range(10))
    run = demo(strategies=names, sizes=(200, 400), seeds=(0,))
    styles = series_styles(summarize([run]).series)
    ours = {one.strategy: style for one, style in styles.items() if one.selector == "proxy"}
    assert len(set(ours.values())) == 10 and sum("square" in style for style in ours.values()) == 4
    assert all(styles[one] == ours[one.strategy] for one in styles if one.selector == "target_selects")
    page = page_of(run)
    assert page.text.index("Labels random proxy · strategy_0") > 0
    marks = [attributes for tag, attributes in page.elements if tag == "rect" and "mark" in attributes.get("class", "")]
    assert len(marks) == 2 * 4 * len(run["pool"]["class_names"])


def test_the_learning_curve_is_a_picture_where_a_target_was_trained(tmp_path):
    paths = write_report([demo_run()], tmp_path / "with")
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    assert "(report.png)" in paths["md"].read_text(encoding="utf-8")
    bare = demo_run()
    bare["rows"], bare["test"] = [], None
    paths = write_report([bare], tmp_path / "without")
    assert "png" not in paths
    assert "report.png" not in paths["md"].read_text(encoding="utf-8")
