"""How rows were chosen, in words for somebody who has not heard of active learning, and as facts for a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svp_nlp.markdown import Markdown, code, escape
from svp_nlp.report_format import count, learner_name
from svp_nlp.strategies import STRATEGIES

Facts = Mapping[str, Any]
_PICKED = {  # what a strategy looks for, after "the 358 rows"
    "margin": "whose two most likely classes were closest to each other",
    "entropy": "over which it was most undecided between all classes",
    "least_confidence": "of whose most likely class it was least sure",
    "class_balanced": "that it took to be of the classes with the fewest labels, and was least sure of among these",
    "rare_classes": "over which it was undecided, and which are likely to be of a class with few labels",
    "greedy_k_centers": "each of which lay farthest from all that had a label and all picks before it",
    "facility_location": "that together stand best for all the others",
    "badge": "over which it had doubts, and which differ from each other",
    "cluster_margin": "over which it had doubts, spread over groups of similar rows",
    "typiclust": "most typical of groups of similar rows",
    "prob_cover": "that have most others close to them",
    "forgetting_events": "that it got right and then wrong again most often, or never right, while it learned",
    "aum": "whose label stood out least from the other classes while it learned",
    "el2n": "on which it was most wrong while it learned",
    "hard_to_learn": "to whose label it gave the lowest probability while it learned",
    "ambiguous": "of whose label it changed its mind most while it learned",
}
_REDUCED = {  # which rows of a pool are scored
    "ups": "those over which it had doubts when it last saw them, and some others",
    "seals": "those most similar to rows with a label",
}


def is_of_images(entry: Facts) -> bool:
    """Whether the pool of a configuration holds images."""
    return bool(entry["lineage"]["pool"].get("modality") == "image")


def proxy_name(proxy: Facts | None) -> str | None:
    return None if proxy is None else learner_name({**(proxy.get("spec") or {}), "kind": proxy["kind"]}, "a model")


def how_chosen(entry: Facts) -> Markdown:
    """A few sentences about the rows of one configuration."""
    lineage, picked = entry["lineage"], int(entry["selection"]["rows"])
    strategy, options = str(lineage["strategy"]), _options(lineage)
    proxy = proxy_name(lineage.get("proxy"))
    if proxy is None:
        if strategy == "random":
            return Markdown("The rows were drawn at random: every row of the pool had the same chance.")
        return Markdown(f"The rows were picked by {code(strategy)}, which needs no model.")
    before = int(lineage.get("labeled_size") or 0) - int(lineage.get("budget") or 0)
    # A core-set is picked from rows that all have a label.
    learned = f"the {count(before)} rows that had a label by then" if before > 0 else "all rows that have a label"
    watched = strategy in STRATEGIES and STRATEGIES[strategy].uses_dynamics
    sentences = [
        f"A small, quick model, the *proxy* ({escape(proxy)}), learned from {learned}"
        + ("." if watched else f" and then looked at {_looked_at(lineage)}.")
    ]
    if "candidates" in options or "prefilter" in options:
        first = options.get("prefilter")
        which = f"the {count(options.get('candidate_rows'))} rows {_wanted(first)}" if first else "drawn at random"
        number = "" if first else f"{count(options.get('candidate_rows'))} rows "
        sentences.append(f"Candidates were {number}{which}.")
    how, details = str(_wanted(strategy)), [f"strategy {code(strategy)}"]
    if options.get("epochs"):
        details[0] += f" in {first_epochs(options.get('epochs_used', options['epochs']))}"
    if strata := options.get("strata"):
        how = f"from easy to hard alike, but for the hardest {escape(strata.get('drop_hardest'))},"
        details.append(f"{count(strata.get('count'))} strata")
    details.append(f"round {int(lineage['round'])}")
    return Markdown(" ".join([*sentences, f"The {count(picked)} rows {how} were picked ({', '.join(details)})."]))


def _wanted(strategy: Any) -> Markdown:
    return escape(_PICKED.get(str(strategy), "that scored highest"))


def _options(lineage: Facts) -> Facts:
    found = lineage.get("options")
    return found if isinstance(found, Mapping) else {}


def _looked_at(lineage: Facts) -> str:
    options, rows = _options(lineage), lineage["pool"]["rows"]
    before = rows if "prefilter" in options else (lineage.get("scoring") or {}).get("rows")
    scored = options.get("scored_rows") or before or rows
    number = f"all {count(scored)}" if scored == rows else f"{count(scored)} of the {count(rows)}"
    kind, drawn = (options.get("reduce") or {}).get("kind"), options.get("drawn_at_random")
    why = f" ({_REDUCED[kind]})" if scored != rows and kind in _REDUCED else ""
    if isinstance(drawn, int) and drawn > 0 and isinstance(scored, int):  # SEALS found fewer rows than the budget
        similar = f"{count(scored - drawn)} of them {_REDUCED['seals'].removeprefix('those ')}"
        why = f" ({similar}, and for want of more {count(drawn)} drawn at random, so that all of them were picked)"
    return f"{number} rows of the pool{why}"


def first_epochs(number: Any) -> str:
    return "the first epoch" if number == 1 else f"the first {count(number)} epochs"


def option_facts(lineage: Facts) -> list[tuple[str, Any]]:
    """The options of a strategy for the table of a lineage: (fact, value)."""
    options = _options(lineage)
    reduce, strata, first = options.get("reduce") or {}, options.get("strata") or {}, options.get("prefilter")
    facts: list[tuple[str, Any]] = []
    if "candidates" in options or first:
        how = f"the highest by {code(first)}" if first else "drawn at random"
        facts.append(("candidates", Markdown(f"{count(options.get('candidate_rows'))}, {how}")))
    if reduce:
        drawn = options.get("drawn_at_random")
        more = f", {count(drawn)} of them drawn at random" if drawn else ""
        facts.append(
            ("reduced pool", Markdown(f"{count(options.get('scored_rows'))} rows by {code(reduce.get('kind'))}{more}"))
        )
    if strata:
        hardest = escape(strata.get("drop_hardest"))
        facts.append(("strata", Markdown(f"{count(strata.get('count'))}, without the hardest {hardest}")))
    if options.get("epochs"):
        facts.append(("looked at", first_epochs(options.get("epochs_used", options["epochs"]))))
    return facts
