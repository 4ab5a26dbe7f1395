"""Recipes: what is accepted means the same everywhere, what is refused is named with its place, all at once."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp import recipe_yaml
from svp_nlp.errors import BudgetError, RecipeError
from svp_nlp.models import LEARNERS
from svp_nlp.recipe import (
    Recipe,
    dump_recipe,
    load_recipe,
    make_recipe,
    recipe_schema,
)
from svp_nlp.recipe_yaml import RecipeTree, differences, find_recipe, override, parse_yaml, scrub, shipped_recipes
from svp_nlp.sizes import resolve_size

GOOD = """\
mode: active_learning
pool:
  path: reviews.csv
  text_columns: [title, content]
test: {split: test}
proxy:
  kind: fasttext
  dim: 20
target:
  kind: vdcnn
  depth: 9
  training:
    schedule:
      - {epochs: 3, learning_rate: 1e-3}
strategies: [least_confidence]
labeled_sizes: [10%, 20%, 30.50%]
baselines: [random, target_selects]
"""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good.yaml", GOOD)


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_a_recipe_has_the_values_of_its_file_and_defaults_for_the_rest(good: Path) -> None:
    recipe = load_recipe(good)
    assert recipe.proxy.kind == "fasttext"
    assert recipe.proxy.dim == 20  # type: ignore[attr-defined]
    assert recipe.initial == "2%"
    assert recipe.labeled_sizes == ("10%", "20%", "30.5%")
    assert recipe.target is not None
    assert recipe.target.training.schedule[0].learning_rate == 0.001  # type: ignore[attr-defined]
    assert recipe.seeds == (0,)
    assert recipe.oracle.kind == "column"  # type: ignore[attr-defined]


def test_a_test_set_takes_from_the_pool_what_it_does_not_say(good: Path) -> None:
    same_place = load_recipe(good, ["pool.path=Org/data", "pool.revision=v1"]).test
    assert same_place is not None
    assert (same_place.path, same_place.revision, same_place.split) == ("Org/data", "v1", "test")
    assert same_place.text_columns == ("title", "content")
    elsewhere = load_recipe(good, ["pool.revision=v1", "test.path=test.csv", "dev={path: dev.csv}"])
    assert elsewhere.test is not None
    assert (elsewhere.test.path, elsewhere.test.revision) == ("test.csv", None)
    assert elsewhere.test.text_columns == ("title", "content")
    assert elsewhere.dev.split == "validation"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["good", *shipped_recipes()])
def test_a_dumped_recipe_reads_back_as_the_same_recipe(name: str, good: Path, tmp_path: Path) -> None:
    recipe = load_recipe(good if name == "good" else name)
    dumped = json.loads(json.dumps(recipe.model_dump(mode="json")))
    assert make_recipe(dumped) == recipe
    assert make_recipe(dumped).fingerprint == recipe.fingerprint
    assert load_recipe(write(tmp_path / "dump.yaml", dump_recipe(recipe))) == recipe


def test_all_errors_are_told_at_once_with_path_place_and_what_was_meant(good: Path) -> None:
    text = GOOD.replace("dim: 20", "dimm: 20").replace("least_confidence", "least_confidnce")
    message = refusal(write(good, text.replace("epochs: 3", "epoch: 3")), "pool.split=3", "moode=x")
    for line in (
        "pool.split (--set pool.split=3): found 3; expected a text; put it in quotes",
        "proxy.dimm (line 8): unknown key; did you mean 'dim'?",
        "target.training.schedule.0.epochs (line 14): missing",
        "target.training.schedule.0.epoch (line 14): unknown key; did you mean 'epochs'?",
        "strategies.0 (line 15): 'least_confidnce' is not a strategy; did you mean 'least_confidence'?",
        "moode (--set moode=x): unknown key; did you mean 'mode'?",
    ):
        assert f"\n  {line}\n" in message + "\n"
    assert message.startswith(f"{good}: 6 errors\n")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("mode=active_lerning", "did you mean 'active_learning'?"),
        ("mode=core_set", None),
        ("proxy.kind=fastext", "proxy (line 6): kind 'fastext' is not a learner; did you mean 'fasttext'?"),
        ("proxy={dim: 3}", f"kind is missing; expected {' or '.join(LEARNERS)}"),
        ("proxy.kind=[1]", f"is not a learner; expected {' or '.join(LEARNERS)}"),
        ("proxy=fasttext", "proxy (--set proxy=fasttext): found 'fasttext'"),
        ("oracle.noise=2", "oracle.noise (--set oracle.noise=2): found 2"),
        ("oracle.noise=0.1", None),
        ("oracle.kind=people", "kind 'people' is not an oracle"),
        ("strategies=[]", "strategies (--set strategies=[]): the list is empty"),
        ("strategies=[margin, margin]", "margin: given twice; list each once"),
        ("strategies=[random]", "random is a strategy and a baseline"),
        ("seeds=[0, 0]", "seeds (--set seeds=[0, 0]): 0: given twice"),
        ("seeds=[-1]", "seeds.0"),
        ("seeds=[1.5]", "seeds.0"),
        ("seeds.0=7", "seeds (line"),
        ("labeled_sizes=[20%, 10%]", "10% is not more than the size before, 20%"),
        ("labeled_sizes=[2%]", "2% is not more than initial, 2%"),
        ("labeled_sizes=[0.1]", "found 0.1; expected a number of rows such as 1200, or a share"),
        ("labeled_sizes=[0%]", "expected more than 0%"),
        ("labeled_sizes=[101%]", "at most 100%"),
        ("labeled_sizes=[true]", "found True"),
        ("labeled_sizes=[1, 10%]", None),
        ("initial=0", "0 rows; expected at least 1"),
        ("train_target_at=[11%]", "11% is not one of labeled_sizes as written there"),
        ("train_target_at=[10.0%, initial]", None),
        ("train_target_at=some", "expected all, or a list"),
        ("train_target_at=[some]", "train_target_at.0"),
        ("target=null", "target_selects needs a target"),
        ("test=null", "without a test set nobody would read"),
        ("dev=1", "dev (--set dev=1): found 1; expected a share such as 0.05"),
        ("dev=0.05", None),
        ("dev={pth: x}", "dev.pth (--set dev={pth: x}): unknown key; did you mean 'path'?"),
        ("test.path=''", "path is an empty text"),
        ("pool.text_columns=[]", "the list is empty"),
        ("metrics=['a b']", "'a b' is not the name of a metric"),
        ("metrics=[../evil.py]", "is not the name of a metric"),
        ("target.training.learning_rate=0.5", "schedule excludes learning_rate"),
        ("target.training.schedule.0.learning_rate=1e999", "learning_rate"),
        ("pool={}", "pool.path (--set pool={}): missing"),
        ("pool.id_column.x=1", "pool.id_column"),
        (
            "strategies=[{name: margin, reduce: {kind: sels}}]",
            "reduce: {kind: sels}}]): 'sels' is no kind of reduce; did you mean 'seals'?",
        ),
        ("strategies=[{name: margin, reduce: {kind: 7}}]", "is no kind of reduce; expected 'ups' or 'seals'"),
        ("strategies=[{name: margin, reduce: {gamma: 1}}]", "kind is missing; expected 'ups' or 'seals'"),
        ("strategies=[{name: margin, reduce: seals}]", "found 'seals'; write reduce: {kind: seals}"),
        ("strategies=[{name: margin, reduce: {kind: seals, neighbors: 3}}]", "did you mean 'neighbours'?"),
    ],
)
def test_one_wrong_value_is_named(good: Path, assignment: str, expected: str | None) -> None:
    if expected is None:
        load_recipe(good, [assignment])
    elif assignment == "seeds.0=7":
        assert "seeds" in refusal(good, assignment)
    else:
        message = refusal(good, assignment)
        assert expected in message
        assert "\n" not in message or message.splitlines()[0].endswith(" errors")


def test_an_encoder_that_is_refreshed_trains_in_epochs_as_well(good: Path) -> None:
    chosen = ["proxy={kind: embedding, config: {model_type: bert}, refresh: {at: 50}}", "target=null",
              "baselines=[random]"]  # fmt: skip
    assert load_recipe(good, [*chosen, "dev=0.1"]).dev == 0.1
    chosen.append("proxy.refresh.training.early_stopping_patience=1")
    assert "refresh.training.early_stopping_patience needs a dev set" in refusal(good, *chosen)
    load_recipe(good, [*chosen, "dev=0.1"])


def test_a_core_set_has_no_start_set(good: Path) -> None:
    assert load_recipe(good, ["mode=core_set"]).initial is None
    assert "a core-set has no start set" in refusal(good, "mode=core_set", "initial=2%")
    assert "initial is not one of labeled_sizes" in refusal(good, "mode=core_set", "train_target_at=[initial]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "key a is given twice, on line 1 and on line 3"),
        ("a:\n  b: 1\n  b: 1\n", "key a.b is given twice, on line 2 and on line 3"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: tag !!python/object/apply:os.getcwd is not allowed"),
        ("a: !!python/name:os.system\n", "is not allowed"),
        ("a: !custom x\n", "tag !custom is not allowed"),
        ("a: !!binary aGk=\n", "is not allowed"),
        ("a: !!int x\n", "'x' is not a YAML int"),
        ("a: &x [1]\nb: *x\n", "line 1: YAML aliases"),
        ("a: &x [*x]\n", "YAML aliases"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "YAML aliases"),
        ("a:\n\tb: 1\n", "line 2, column 1"),
        ("a: [1\n", "line 2, column 1"),
        ("a: 1\n  b: 2\n", "line 2"),
        ("a: %x\n", "quote texts that start with a special character"),
        ("---\na: 1\n---\nb: 1\n", "expected a single document"),
        ("1: 2\n", "line 1: key '1' is not a name"),
        ("null: 2\n", "is not a name"),
        ("? [a]\n: 1\n", "is not a name"),
        ("- a\n", "found a list at the top"),
        ("text\n", "found a str at the top"),
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("a: \x00\n", "line 1: character U+0000"),
        ("ok: 1\na: \x07\n", "line 2: character U+0007"),
        ("[" * 5_000, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        (b"a: \xe9\n", "byte 3 is not UTF-8"),
        ("a: " + "x" * 1_000_001, "a recipe has at most"),
    ],
)
def test_what_is_not_strict_yaml_is_refused_with_its_place(text: str | bytes, expected: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "bad.yaml", text))
    assert expected in message
    assert message.startswith(str(tmp_path / "bad.yaml"))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("72_000", 72_000),
        ("012", 12),
        ("1:30", "1:30"),
        ("no", "no"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'null'", "null"),
        ("'12'", "12"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        (".nan", ".nan"),
        ("10%", "10%"),
        ("!!str 5", "5"),
        ("=", "="),
        ("[1, [2, {a: b}]]", [1, [2, {"a": "b"}]]),
    ],
)
def test_scalars_mean_what_a_python_user_expects(text: str, value: Any) -> None:
    found, _ = parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=12)
)
_values = st.recursive(
    _scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("abcno1~", min_size=1), v, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(_values)
def test_strict_yaml_reads_json_as_json(value: Any) -> None:
    found, _ = parse_yaml(json.dumps(value, ensure_ascii=False), "here")
    assert found == value


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60) | st.text("{}[]:-&*!%?|>\t\n ab1'\"#,~@`", max_size=40).map(str.encode))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fuzz.yaml", data)
    try:
        tree = recipe_yaml.read_tree(path)
    except RecipeError as error:
        assert str(error).startswith(str(path))
    else:
        assert all(isinstance(key, str) for key in tree.values)


def test_overrides_set_create_and_address_list_entries() -> None:
    tree = RecipeTree("r", {"a": None, "b": [1, {"c": 2}], "d": {"e": 1}})
    for assignment in ("a.x.y=1e-3", "b.1.c=three", "b.0=[4]", "d={f: g}", "new=a=b"):
        override(tree, assignment)
    assert tree.values == {"a": {"x": {"y": 1e-3}}, "b": [[4], {"c": "three"}], "d": {"f": "g"}, "new": "a=b"}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("a..b=1", "expected KEY=VALUE"),
        ("a.b=1", "a is 1, which has no keys"),
        ("b.2=1", "b has 2 entries, 0 to 1; no '2'"),
        ("b.x=1", "b has 2 entries"),
        ("b.-1=1", "b has 2 entries"),
        ("a=[1", "--set a=[1"),
        ("a=!!python/name:os.system", "is not allowed"),
        ("a=" + "hf_" + "A" * 34, None),
    ],
)
def test_an_override_that_cannot_be_applied_is_refused(assignment: str, expected: str | None, good: Path) -> None:
    tree = RecipeTree("r", {"a": 1, "b": [1, 2]})
    if expected is None:
        message = refusal(good, assignment)
        assert "A" * 20 not in message
        return
    with pytest.raises(RecipeError) as caught:
        override(tree, assignment)
    assert expected in str(caught.value)


def test_the_last_of_two_overrides_wins_and_is_the_one_named(good: Path) -> None:
    assert load_recipe(good, ["proxy.dim=3", "proxy.dim=4"]).proxy.dim == 4  # type: ignore[attr-defined]
    assert "(--set proxy.dim=b)" in refusal(good, "proxy.dim=a", "proxy.dim=b")


def test_a_token_in_a_recipe_is_refused_and_not_repeated(good: Path) -> None:
    token = "hf_" + "Ab1" * 12
    for assignment in (f"pool.revision={token}", f"pool.path=https://x/{token}", f"pool.{token}=1"):
        message = refusal(good, assignment)
        assert token not in message
    assert scrub(f"{token} and hf_short") == "hf_*** and hf_short"


@pytest.mark.parametrize("name", ["smoke/active_fasttext_vdcnn", "recipes/smoke/active_fasttext_vdcnn.yaml"])
def test_shipped_recipes_are_found_by_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name).is_file()


def test_a_recipe_that_does_not_exist_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'smoke/active_fasttext_vdcnn'"):
        find_recipe("smoke/activ_fasttext_vdcnn.yaml")
    with pytest.raises(RecipeError, match="is a directory"):
        find_recipe(tmp_path)
    for outside in ("../pyproject.toml", "smoke/../../pyproject", "/etc/shadowy"):
        with pytest.raises(RecipeError):
            find_recipe(tmp_path / outside if outside.startswith("..") else outside)


def recipe_with(sizes: list[int | str], initial: int | str | None = None, **more: Any) -> Recipe:
    values = {
        "mode": "active_learning",
        "pool": {"path": "p"},
        "test": {},
        "proxy": {"kind": "fasttext"},
        "target": {"kind": "vdcnn"},
        "strategies": ["margin"],
        "labeled_sizes": sizes,
        "initial": initial,
        **more,
    }
    return make_recipe(values)


def test_the_papers_shares_are_the_papers_sizes() -> None:
    recipe = recipe_with(["10%", "20%", "30%", "40%", "50%"], train_target_at=["initial", "30%"])
    assert recipe.resolve_initial(3_600_000) == 72_000
    assert recipe.resolve_sizes(3_600_000) == [360_000, 720_000, 1_080_000, 1_440_000, 1_800_000]
    assert recipe.resolve_target_sizes(3_600_000) == [72_000, 1_080_000]


@settings(deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 10**9))
def test_shares_are_exact_and_round_half_up(hundredths: int, num_usable: int) -> None:
    exact = Fraction(hundredths, 10_000) * num_usable
    expected = math.floor(exact + Fraction(1, 2))
    if expected < 1:
        with pytest.raises(BudgetError):
            resolve_size(f"{hundredths / 100}%", num_usable, "x")
    else:
        assert resolve_size(f"{hundredths / 100}%", num_usable, "x") == expected


@pytest.mark.parametrize(
    ("sizes", "initial", "num_usable", "numbers"),
    [
        ([10, 2_000], 5, 1_000, ("2,000", "1,000")),
        ([10, 50], 1_001, 1_000, ("not more",)),
        (["1%", "1.1%"], 1, 100, ("labeled_sizes.0", "is 1 rows")),
        (["50%", "50.1%"], 1, 100, ("labeled_sizes.1", "50 rows of 100")),
        ([60, "50%"], 1, 100, ("50 rows of 100", "which is 60")),
        (["50%"], 50, 100, ("initial (50)", "50 rows of 100")),
        (["10%"], "1%", 10, ("no row",)),
    ],
)
def test_sizes_that_do_not_fit_the_pool_are_refused_with_both_numbers(
    sizes: list[int | str], initial: int | str, num_usable: int, numbers: tuple[str, ...]
) -> None:
    with pytest.raises((BudgetError, RecipeError)) as caught:
        recipe_with(sizes, initial).resolve_sizes(num_usable)
    for number in numbers:
        assert number in str(caught.value)


def test_differences_name_each_changed_key_with_both_values(good: Path) -> None:
    old = load_recipe(good).model_dump(mode="json")
    new = load_recipe(good, ["proxy.dim=30", "seeds=[0, 1]", "dev=0.1", "target.depth=17"]).model_dump(mode="json")
    assert differences(old, old) == []
    assert differences(old, new) == [
        "dev: null -> 0.1",
        "proxy.dim: 20 -> 30",
        "target.depth: 9 -> 17",
        "seeds: [0] -> [0, 1]",
    ]
    assert differences({"a": 1}, {}) == ["a: 1 -> null"]


def test_differences_of_long_lists_name_the_entry_that_differs() -> None:
    names = [f"a_strategy_with_a_long_name_{number}" for number in range(5)]
    old = {"strategies": [*names, {"name": "el2n", "epochs": 1}]}
    assert differences(old, {"strategies": [*names, {"name": "el2n", "epochs": 2}]}) == ["strategies.5.epochs: 1 -> 2"]
    assert differences(old, {"strategies": names}) == ["strategies: 6 -> 5 entries"]
    assert differences(old, {"strategies": [*names[1:], old["strategies"][5]]}) == [
        "strategies: 6 -> 5 entries",
        f'strategies.0: "{names[0]}" -> "{names[1]}"',
    ]
    long = {"seeds": list(range(60))}
    assert differences(long, {"seeds": [*range(59), 7]}) == ["seeds.59: 59 -> 7"]


def test_the_schema_is_json_and_knows_every_key() -> None:
    schema = json.loads(json.dumps(recipe_schema()))
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert {"$ref": "#/$defs/FastTextSpec"} in schema["properties"]["proxy"]["oneOf"]
    assert {"type": "null"} in schema["properties"]["target"]["oneOf"]
    text = json.dumps(schema)
    for reference in {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}:
        assert reference in schema["$defs"], reference


def test_a_dump_quotes_texts_that_only_our_reader_takes_for_numbers(good: Path, tmp_path: Path) -> None:
    recipe = load_recipe(good, ["pool.path='1e-3'", "pool.name='012'", "pool.split='no'", "pool.revision='null'"])
    text = dump_recipe(recipe)
    assert load_recipe(write(tmp_path / "d.yaml", text)) == recipe
    assert yaml.safe_load(text)["pool"]["revision"] == "null"
