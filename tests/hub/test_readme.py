"""What people wrote into README.md stays when our part of it is written anew."""

from __future__ import annotations

import pytest
from card_facts import (
    BEGIN,
    CARDS,
    END,
    again,
    context_of,
    selection_entry,
    yaml_of,
)
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st
from localhub.cards import validate_card

from svp_nlp.errors import HubRefused
from svp_nlp.hub.card import selection_card
from svp_nlp.hub.readme import write_readme


@CARDS
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("top", ["", "---\n# ours is mine\npretty_name: 'News:  few'  # kept\nversion: 1.10\n---\n"])
def test_what_people_wrote_around_our_part_stays_byte_for_byte(make, context, newline, top):
    before, after = "# My title\n\n\ttabs and  spaces \n", "\n\n## Thanks\r\n---\nto all\\1 \\g<0>"
    first = again(make, context, (top + before).replace("\n", newline))
    assert before.replace("\n", newline) in first
    written = first + after
    second = again(make, context, written)
    assert second == written
    assert second.count(BEGIN) == second.count(END) == 1
    if top:
        assert "# ours is mine" + newline + "pretty_name: 'News:  few'  # kept" + newline + "version: 1.10" in second
    if newline == "\r\n":
        assert "\n" not in first.replace("\r\n", "")


@CARDS
def test_what_changed_in_our_part_is_replaced_and_nothing_else(make, context):
    card = make(context)
    mine = card.replace(END, f"{END}\nmine").replace(BEGIN, f"also mine\n{BEGIN}")
    changed = mine.replace("svp_nlp.load", "somebody.loads").replace("## Versions", "## Nothing")
    assert changed != mine
    assert again(make, context, changed) == mine


@CARDS
def test_without_our_marks_our_part_is_appended_once_and_nothing_is_lost(make, context):
    card = make(context)
    begin_line = next(line for line in card.splitlines() if line.startswith(BEGIN))
    for damaged in (
        card.replace(begin_line + "\n", "").replace(END, ""),
        card.replace(begin_line + "\n", ""),
        card.replace(END, ""),
    ):
        repaired = again(make, context, damaged)
        text = damaged.split("---\n", 2)[2]
        assert text.rstrip("\n") in repaired
        assert repaired.endswith(f"{END}\n")
        assert again(make, context, repaired) == repaired


MARKS = [f"{BEGIN} -->", END, f"see `{BEGIN} -->`", "-->"]
PIECES = st.sampled_from(["\n", "\r\n", "---", "# Title", "text", " ", "a: b", "| x |", "```", "\ufeff", *MARKS])


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=6).map("".join))
def test_whatever_stands_around_our_part_a_second_push_changes_nothing(before, after):
    def written(readme):
        return write_readme(readme, fields={"license": "mit", "tags": ["svp_nlp"]}, body="# Ours", where="a/b")

    try:
        first = written(before)
    except HubRefused:
        return
    assert written(first) == first
    assert first.count("# Ours") == 1
    assert DatasetCard(first).data.license == "mit"
    assert written(first + "\n" + after).count("# Ours") == 1
    if not {BEGIN, END, "---"} & {piece for piece in (BEGIN, END, "---") if piece in before + after}:
        assert before.removeprefix("\ufeff") in first
        assert written(first + after) == first + after


def test_a_copy_of_our_part_is_not_kept_beside_it():
    card = selection_card(context_of())
    ours = card[card.index(BEGIN) : card.index(END) + len(END)]
    once = again(selection_card, context_of(), card + "between\n" + ours + "\nend\n")
    assert once == card + "between\n" + "\nend\n"


def test_a_licence_a_language_and_tags_that_a_user_set_stay():
    theirs = "---\nlicense: mit\nlanguage: [de, 'no']\ntags:\n- mine\nsize_categories: [other]\n---\nHello\n"
    card = selection_card(context_of(readme=theirs))
    found = yaml_of(card)
    assert (found["license"], found["language"], found["size_categories"]) == ("mit", ["de", "no"], ["other"])
    assert found["tags"] == ["mine", "active-learning", "selection-via-proxy", "svp_nlp"]
    assert "language: [de, 'no']\n" in card
    assert found["source_datasets"] == ["fancyzhx/ag_news"]


def test_what_we_wrote_into_the_yaml_last_time_is_brought_up_to_date():
    first = selection_card(context_of())
    grown = {"default": selection_entry(rows=5000, source_card={"license": "odbl", "language": ["fr"]})}
    second = yaml_of(selection_card(context_of(grown, readme=first)))
    assert (second["license"], second["language"]) == ("odbl", ["fr"])
    assert second["size_categories"] == ["1K<n<10K"]
    changed = first.replace("license: cc-by-4.0", "license: mit")
    third = yaml_of(selection_card(context_of(grown, readme=changed)))
    assert (third["license"], third["language"]) == ("mit", ["fr"])


def test_yaml_that_cannot_be_taken_apart_keeps_its_values():
    for theirs in (
        "---\n{license: mit, pretty_name: x}\n---\n",
        "---\nannotations: &a [1, 2]\ntags: [a]\nextra: *a\ndataset_info: *a\n---\n",
        "---\n  license: mit\n  pretty_name: x\n---\n",
    ):
        before, found = yaml_of(theirs), yaml_of(selection_card(context_of(readme=theirs)))
        kept = {key: value for key, value in before.items() if key not in ("tags", "dataset_info")}
        assert {key: found[key] for key in kept} == kept
        assert found["configs"]


def test_configurations_that_we_do_not_know_stay_and_there_is_one_default():
    foreign = "---\nconfigs:\n- config_name: extra\n  data_files: extra.csv\n  default: true\n---\n"
    found = yaml_of(selection_card(context_of({"margin": selection_entry(config="margin")}, readme=foreign)))["configs"]
    assert [config["config_name"] for config in found] == ["margin", "extra"]
    assert [config.get("default") for config in found] == [None, True]
    named = yaml_of(selection_card(context_of(readme=foreign)))["configs"]
    assert [config.get("default") for config in named] == [True, None]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("license: mit\ntags: [a\npretty_name: x", 4),
        ("a: b: c", 2),
        ("tags:\n\t- a", 3),
        ("- a\n- b", 2),
        ("just text", 2),
        ("when: 2026-13-45", 2),
        ("a: 1\nb: \x07", 3),
    ],
)
def test_a_broken_yaml_block_is_refused_with_its_line(block, line, newline):
    readme = f"---\n{block}\n---\ntext".replace("\n", newline)
    with pytest.raises(
        HubRefused, match=rf"alice/picked: README.md, line {line}: .*; correct it .* push again"
    ) as error:
        selection_card(context_of(readme=readme))
    assert "\n" not in str(error.value)


def test_a_yaml_block_without_an_end_is_refused():
    with pytest.raises(HubRefused, match="line 1: its YAML block has no end"):
        selection_card(context_of(readme="---\nlicense: mit\n\n# Title\n"))


@pytest.mark.parametrize(
    "readme", ["\n\n", "---\n---\n", "---\n\n---\n", "\ufeff---\nlicense: mit\n---", "--- \nlicense: mit\n--- \n"]
)
def test_odd_but_valid_readmes_are_taken(readme):
    card = selection_card(context_of(readme=readme))
    assert validate_card(card) == ([], [])
    assert DatasetCard(card).data.license == ("mit" if "mit" in readme else "cc-by-4.0")
    assert again(selection_card, context_of(), card) == card
