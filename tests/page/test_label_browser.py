"""The labelling page in a real browser: what is pressed is what is kept, whatever fails in between."""

from __future__ import annotations

import json
import re
import signal
import sys

import PIL.Image
import pytest
from label_runs import CLASSES, address, answer, ask, free_port, make_run, process, said, served
from page_use import expect, press, shows

from svp_nlp.labeling.queue import LabelQueue


def test_a_first_visitor_gives_a_name_then_labels_by_keys_and_a_reload_goes_on(tmp_path, visitor):
    run = make_run(tmp_path / "run", guidelines="# What is *music*?").run_dir
    with served(run) as url:
        page = visitor(url, annotator="")
        page.locator("#name").fill("Ann Other")
        press(page, "Enter")
        shows(page, "row-0")
        assert "token" not in page.url
        press(page, "3")
        shows(page, "row-1")
        press(page, "s")
        shows(page, "row-2")
        press(page, "f")
        page.locator("#ask-value").fill("two things at once 1 2 3")
        press(page, "Enter")
        shows(page, "row-3")
        page.get_by_role("button", name="weather").click()
        shows(page, "row-4")
        expect(page.locator("#round")).to_have_text("Round 1: 4 of 6")
        press(page, "g")
        expect(page.locator("#guidelines")).to_contain_text("What is music?")
        press(page, "u")
        shows(page, "row-3")
        press(page, "Control+z")
        shows(page, "row-2")
        page.reload()
        shows(page, "row-2")
        page.keyboard.down("1")
        page.keyboard.down("1")  # held down: the keyboard repeats it
        page.keyboard.up("1")
        shows(page, "row-3")
        expect(page.locator("#name-button")).to_have_text("Ann Other")
    who = "Ann Other"
    assert said(run) == [
        (who, "label", "music", "row-0"),
        (who, "skip", None, "row-1"),
        (who, "flag", None, "row-2"),
        (who, "label", "weather", "row-3"),
        (who, "retract", None, "row-3"),
        (who, "retract", None, "row-2"),
        (who, "label", "animals", "row-2"),
    ]


def test_who_follows_a_link_in_a_chat_or_a_mail_is_let_in(tmp_path, browser):
    with served(make_run(tmp_path / "run").run_dir) as url:
        page = browser.new_page()
        link = f'<a href="{url}">label here</a>'
        page.route("http://chat.test/", lambda route: route.fulfill(body=link, content_type="text/html"))
        page.goto("http://chat.test/")
        page.locator("a").click()
        expect(page.locator("#name-dialog")).to_be_visible()
        assert "token" not in page.url


def test_texts_and_classes_are_shown_as_they_are_and_never_run(tmp_path, visitor):
    texts = ["<script>alert(1)</script><img src=x onerror=alert(2)>\n  two  spaces", "مرحبا، كيف حالك 123", "שלום"]
    classes = ["<script>alert(3)</script>", '"><img src=x onerror=alert(4)>', "عربي", "a_long_name_of_a_class"]
    shares = [(label, 0.25) for label in classes]
    run = make_run(tmp_path / "run", texts, labels=classes, suggestions=shares).run_dir
    with served(run, suggestions=True) as url:
        page = visitor(url, annotator="<b>ann</b>")
        shows(page, "row-0")
        assert page.locator("#text").text_content() == texts[0]
        assert page.locator("#text img, #text script, .classes img, .classes script").count() == 0
        assert page.locator("#text:dir(ltr)").count() == 1
        names = page.locator("#classes .name").all_text_contents()
        assert names == classes
        assert page.locator("#classes .mark").all_text_contents() == ["25 %"] * 4
        press(page, "1")
        shows(page, "row-1")
        assert page.locator("#text:dir(rtl)").count() == 1
        press(page, "2")
        shows(page, "row-2")
        press(page, "3")
        shows(page, None)
    assert said(run) == [("<b>ann</b>", "label", label, f"row-{at}") for at, label in enumerate(classes[:3])]


def test_among_77_classes_one_is_found_by_typing_and_suggestions_have_the_numbers(tmp_path, visitor):
    classes = [f"topic_{at:02d}" for at in range(74)] + ["card_arrival", "card_payment_fee", "Café"]
    shares = [("topic_50", 0.7), ("card_arrival", 0.2), ("topic_03", 0.1)]
    run = make_run(tmp_path / "run", labels=classes, suggestions=shares).run_dir
    with served(run) as url:
        page = visitor(url)
        shows(page, "row-0")
        assert page.locator("#classes button").count() == 77
        press(page, "0")
        shows(page, "row-1")
        press(page, "/")
        page.keyboard.type("fee card 1")
        expect(page.locator("#no-class")).to_be_visible()
        press(page, "Enter")  # nothing is meant
        press(page, "Backspace", "Backspace")
        assert page.locator("#classes button:visible").all_text_contents() == ["card_payment_fee"]
        press(page, "Enter")
        shows(page, "row-2")
        press(page, "/")
        page.keyboard.type("card")
        press(page, "ArrowDown", "ArrowUp", "ArrowDown", "Enter")
        shows(page, "row-3")
        press(page, "/")
        page.keyboard.type("cafe")
        press(page, "Escape", "2")
        shows(page, "row-4")
        assert not page.locator("#suggested").is_visible()
        page.get_by_label("Suggestions").check()
        assert page.locator("#suggested .mark").all_text_contents() == ["70 %", "20 %", "10 %"]
        press(page, "2")
        shows(page, "row-5")
    assert [label for _, _, label, _ in said(run)] == [
        "topic_09",
        "card_payment_fee",
        "card_payment_fee",
        "topic_01",
        "card_arrival",
    ]


def test_two_tabs_and_two_annotators_never_answer_one_row_twice(tmp_path, visitor):
    run = make_run(tmp_path / "run").run_dir
    with served(run) as url:
        first = visitor(url)
        shows(first, "row-0")
        second = visitor(url, context=first.context)
        shows(second, "row-1")
        ben = visitor(url, "ben")
        shows(ben, "row-2")
        expect(ben.locator("#people")).to_have_text("with ann")
        for page, following in ((first, "row-3"), (second, "row-4"), (ben, "row-5")):
            press(page, "1")
            shows(page, following)
        LabelQueue.open(run).add([answer("row-3", "kitchen", "ann")])  # in a file meanwhile
        press(first, "1")
        shows(first, None)
        expect(first.locator("#pause-title")).to_have_text("Nothing for you at the moment")
        press(second, "u")
        shows(second, "row-1")
    labels = [(who, id) for who, kind, _, id in said(run) if kind == "label"]
    assert sorted(labels) == [("ann", "row-0"), ("ann", "row-1"), ("ann", "row-3"), ("ben", "row-2")]


def test_a_server_that_is_killed_and_started_again_loses_nothing_and_the_page_goes_on(tmp_path, visitor):
    run, port = make_run(tmp_path / "run").run_dir, free_port()
    with process(run, port=port, SVP_CACHE=str(tmp_path / "cache")) as server:
        page = visitor(address(server))
        shows(page, "row-0")
        press(page, "1")
        shows(page, "row-1")
        server.send_signal(signal.SIGKILL)
        server.wait()
        press(page, "2")
        expect(page.locator("#trouble")).to_contain_text("Not saved: The server cannot be reached.")
        press(page, "3")  # what is not saved is not replaced either
        shows(page, "row-1")
    with process(run, port=port, SVP_CACHE=str(tmp_path / "cache")) as server:
        address(server)
        page.get_by_role("button", name="Try again").click()
        shows(page, "row-2")
        expect(page.locator("#trouble")).to_be_hidden()
    assert said(run) == [("ann", "label", CLASSES[at], f"row-{at}") for at in range(2)]


def test_a_full_disk_is_said_and_the_answer_stays_even_over_a_reload(tmp_path, visitor):
    run, port = make_run(tmp_path / "run").run_dir, free_port()
    with process(run, port=port, SVP_ENOSPC_AT="2", SVP_CACHE=str(tmp_path / "cache")) as server:
        page = visitor(address(server))
        press_first = page.locator("[data-label=music]")
        shows(page, "row-0")
        press_first.click()
        shows(page, "row-1")
        press(page, "2")
        expect(page.locator("#trouble")).to_contain_text("No space left on device")
        expect(page.locator("#classes .chosen")).to_have_attribute("data-label", "kitchen")
        shows(page, "row-1")
        assert len(said(run)) == 1
        page.goto(page.url.partition("?")[0] + "?annotator=ben")  # sends it again, though somebody else sits there now
        shows(page, "row-2")
    assert said(run) == [("ann", "label", "music", "row-0"), ("ann", "label", "kitchen", "row-1")]


def test_a_second_look_decides_what_annotators_differ_on_and_keeps_or_takes_what_is_likely(tmp_path, visitor):
    queue = make_run(tmp_path / "run", new_classes="extend")
    queue.add([answer("row-0", "music"), answer("row-0", "weather", "ben"), answer("row-1", "music")])
    queue.add([answer("row-2", "music"), answer("row-3", kind="flag", note="odd")])
    rows = [{"id": f"row-{at}", "given": "music", "suggested": "kitchen", "reason": "unlikely"} for at in (1, 2)]
    (queue.directory / "review.json").write_text(json.dumps({"rows": rows}))
    with served(queue.run_dir) as url:
        page = visitor(url.replace("/?", "/review?"), "boss")
        shows(page, "row-0")
        assert page.locator("#doubt li").all_text_contents() == ["ann: music", "ben: weather"]
        press(page, "s")
        shows(page, "row-3")
        press(page, "ArrowLeft")
        shows(page, "row-0")
        expect(page.get_by_role("button", name="Nobody can tell")).to_have_class("chosen")
        press(page, "4")
        shows(page, "row-3")
        press(page, "n")
        page.locator("#ask-value").fill("sports")
        press(page, "Enter")
        shows(page, "row-1")
        press(page, "k")
        shows(page, "row-2")
        press(page, "ArrowLeft")
        shows(page, "row-1")
        press(page, "ArrowRight", "y")
        shows(page, None)
        expect(page.locator("#pause-title")).to_have_text("All decided")
        page.get_by_role("link", name="Back to labelling").click()
        shows(page, "row-4")
    assert said(queue.run_dir)[5:] == [
        ("boss", "decision", None, "row-0"),
        ("boss", "decision", "weather", "row-0"),
        ("boss", "decision", "sports", "row-3"),
        ("boss", "decision", "music", "row-1"),
        ("boss", "decision", "kitchen", "row-2"),
    ]


def test_others_log_in_with_a_password_over_plain_http(tmp_path, visitor):
    run = make_run(tmp_path / "run").run_dir
    with served(run, password="correct horse") as url:
        page = visitor(re.sub(r"127.0.0.1(:\d+).*", r"labels.example\1/", url), annotator="")
        for guess in ("wrong horse", "correct horse"):
            page.get_by_label("Password").fill(guess)
            press(page, "Enter")
            if guess == "wrong horse":
                expect(page.locator("#wrong")).to_be_visible()
        page.locator("#name").fill("ann")
        press(page, "Enter")
        shows(page, "row-0")
        press(page, "1")
        shows(page, "row-1")
    assert said(run) == [("ann", "label", "animals", "row-0")]


def test_images_are_shown_and_never_the_one_before(tmp_path, visitor):
    queue = make_run(tmp_path / "run", ["", ""], modality="image", images=["0.png", "1.png"])
    (queue.directory / "images").mkdir()
    for at in range(2):
        PIL.Image.new("RGB", (32 + at, 32)).save(queue.directory / f"images/{at}.png")
    with served(queue.run_dir) as url:
        page = visitor(url)
        for at in range(2):
            expect(page.locator("#image")).to_have_js_property("naturalWidth", 32 + at)
            assert page.locator("#image").get_attribute("src") == f"image/row-{at}"
            assert page.locator("#image").bounding_box()["height"] > 200, "small ones are made larger"
            page.locator("#image").evaluate("image => { image.dataset.seen = 'yes'; }")
            press(page, "1")
            expect(page.locator("#image[data-seen]")).to_be_hidden()
        shows(page, None)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_nothing_is_cut_off_on_a_phone_or_a_screen(tmp_path, visitor, width, scheme):
    long = ["a_class_with_a_very_long_name_" * 4, *(f"class {at}" for at in range(30))]
    run = make_run(tmp_path / "run", ["word " * 2_000, "w" * 3_000], labels=long, new_classes="extend").run_dir
    with served(run) as url:
        page = visitor(url, viewport={"width": width, "height": 700}, color_scheme=scheme)
        for id in ("row-0", "row-1"):
            shows(page, id)
            for part in ("#text", "#classes", "#search", ".actions", "header"):
                box = page.locator(part).bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= width, part
            assert page.locator("#text").bounding_box()["height"] < 400
            press(page, "s")
        shows(page, None)
        ask(LabelQueue.open(run), ["more"], round=2)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_server_in_good_order(tmp_path):
    run = make_run(tmp_path / "run").run_dir
    with process(run, port=free_port(), SVP_CACHE=str(tmp_path / "cache")) as server:
        address(server)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
