"""`svp push` and `svp pull`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from svp_nlp.console import Format as OutputFormat
from svp_nlp.console import FormatOption, VerboseOption, command, show
from svp_nlp.errors import HubRefused


class What(str, enum.Enum):
    """What of a run is shared."""

    selection = "selection"
    target = "target"
    proxy = "proxy"
    signals = "signals"


def push(
    source: Annotated[Path, typer.Argument(metavar="RUN|SELECTION", help="A run, or the directory of one selection.")],
    repo_id: Annotated[
        str | None, typer.Argument(metavar="REPO", help="namespace/name. [default: as the recipe's `publish` says]")
    ] = None,
    what: Annotated[What, typer.Option("--what", help="What of the run.")] = What.selection,
    version: Annotated[str | None, typer.Option("--version", help="Its name. [default: v1, v2, ...]")] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", help="Tells strategies or seeds in one repository apart. [default: default]"),
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", help="proxy-margin, random, ... [default: the recipe's first strategy]")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="[default: the first]")] = None,
    round_: Annotated[int | None, typer.Option("--round", help="[default: the last]")] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="For a new repository. [default: as your account says]")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose it as a pull request.")] = False,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="Positions and ids, no text: for pools that must not be redistributed.")
    ] = False,
    pool: Annotated[
        str | None, typer.Option("--pool", help="Where the pool of the run is now. [default: where it was]")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", help="First line of the commit message.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, card and changes; push nothing.")] = False,
    output: FormatOption = OutputFormat.human,
    verbose: VerboseOption = False,
) -> None:
    """Share a selection, a model or scores on the Hugging Face Hub, as a version that never changes."""
    with command(output, verbose):
        from svp_nlp.hub.publish import Publisher
        from svp_nlp.hub.push import push_bundle
        from svp_nlp.hub.remote import Remote, check_version
        from svp_nlp.hub.sharing import bundle_of, preview

        options: dict[str, Any] = {"arm": arm, "seed": seed, "round": round_, "config": config}
        if repo_id is None:
            given = [*options.values(), pool, version, private, message, create_pr or None, index_only or None]
            if what is not What.selection or dry_run or any(value is not None for value in given):
                raise HubRefused(
                    "without REPO the rounds are pushed where and how the recipe's `publish` says, so no option goes "
                    f"with it; name the repository: svp push {source} acme/selected"
                )
            if not source.exists():
                raise HubRefused(f"{source} does not exist; expected what `svp run` made")
            pushed = Publisher.of_run(source).push_left()
            told = [f"{'card of' if one.card_updated else 'pushed'} {one.version}  {one.url}" for one in pushed]
            lines = told or ["all rounds were pushed before"]
            show({"lines": lines, "pushed": [vars(one) for one in pushed]}, output)
            return
        remote = Remote(repo_id, "dataset" if what in (What.selection, What.signals) else "model")
        if version is not None:
            check_version(version)
        if not dry_run:
            remote.sign_in()  # what is wrong with names and tokens is known before any file is made
        with bundle_of(source, what.value, index_only=index_only, pool_path=pool, **options) as bundle:
            if dry_run:
                show(preview(bundle, remote, version=version, create_pr=create_pr), output)
                return
            done = push_bundle(bundle, remote, version=version, private=private, create_pr=create_pr, message=message)
        word = "proposed" if done.pull_request else "pushed" if done.new else "nothing new: it is"
        card = "; its card was brought up to date" if done.card_updated else ""
        lines = [f"{word} {done.version} of {done.repo_id}, commit {done.sha}{card}", done.url]
        if done.newest is not None:
            lines.append(
                f"the newest version is {done.newest}: who names none reads that one; read this one with --revision "
                f"{done.version}"
            )
        show({"lines": lines, **vars(done)}, output, quiet=done.sha)


def pull(
    repo_id: Annotated[str, typer.Argument(metavar="REPO", help="namespace/name of a pushed selection.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="A version such as v3, or a commit. [default: the newest]")
    ] = None,
    config: Annotated[str | None, typer.Option("--config", help="[default: default, or the only one]")] = None,
    directory: Annotated[
        Path | None, typer.Option("--output", help="Where to write it. [default: NAME-VERSION here]")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", help="The pool that a version without texts was made from, if on no Hub.")
    ] = None,
    output: FormatOption = OutputFormat.human,
    verbose: VerboseOption = False,
) -> None:
    """Fetch a version of a selection, verify all of it, and write it into a folder that load_dataset reads."""
    with command(output, verbose):
        from svp_nlp.hub.load import pull_selection

        found = pull_selection(repo_id, directory, revision=revision, config=config, pool_path=pool)
        lines = [
            f"{found['rows']:,} rows of {found['repo_id']} {found['version']}, commit {found['sha']}, verified",
            found["directory"],
        ]
        show({"lines": lines, **found}, output, quiet=found["directory"])
