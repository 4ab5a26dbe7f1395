"""The rounds of a run as versions, while it goes on; never in the way of the run.

What the Hub did not take is tried once more at the end and then reported; `svp push RUN` pushes it later. What was
pushed is written down in the run directory, so that a resumed run asks the Hub for nothing that is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svp_nlp.errors import HubError, HubRefused, LineageError, SVPError
from svp_nlp.files import read_json, write_json
from svp_nlp.hub.history import read_document
from svp_nlp.hub.push import Pushed, push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.retry import Patience
from svp_nlp.hub.selections import DEFAULT_CONFIG, KIND
from svp_nlp.hub.sharing import bundle_of
from svp_nlp.hub.source import finished_rounds
from svp_nlp.hub_errors import first_line
from svp_nlp.pool import Pool
from svp_nlp.results import RESULTS_FILE

log = logging.getLogger(__name__)
PUBLISHED_FILE = "published.json"
_WHILE_RUNNING = Patience(deadline_s=30.0)


class Publisher:
    """What is pushed of one run directory, and what still has to be.

    Args:
        settings: `repo_id`, `private`, `index_only`, `arms` (whose rounds are pushed), and whether configurations are
            told apart `by_arm` and `by_seed`.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], *, patience: Patience = _WHILE_RUNNING) -> None:
        self._run_dir, self._settings = run_dir, dict(settings)
        self._remote = Remote(settings["repo_id"], "dataset", patience=patience)
        self._failure: str | None = None
        file = run_dir / PUBLISHED_FILE
        told = read_json(file) if file.exists() else {"settings": {}, "versions": []}
        # What a run pushed elsewhere, or in another form, before it was resumed with another `publish` says nothing.
        is_same = all(told["settings"].get(name) == settings[name] for name in ("repo_id", "index_only"))
        self._versions: list[dict[str, Any]] = told["versions"] if is_same else []
        self._has_begun = file.exists() and is_same

    @classmethod
    def of_run(cls, run_dir: Path) -> Publisher:
        """For a run whose recipe says `publish`.

        Raises:
            HubRefused: it does not.
        """
        if not (run_dir / PUBLISHED_FILE).exists():
            raise HubRefused(
                f"{run_dir}: its recipe has no `publish`; name the repository: svp push {run_dir} acme/selected"
            )
        return cls(run_dir, read_json(run_dir / PUBLISHED_FILE)["settings"], patience=Patience())

    @property
    def summary(self) -> dict[str, Any]:
        """`repo_id`, `url`, and the `versions` that are on the Hub."""
        versions = [version["version"] for version in self._versions]
        return {"repo_id": self._remote.repo_id, "url": self._remote.url, "versions": versions}

    def check(self) -> None:
        """See before any work that pushing can succeed; a Hub that cannot be reached is only said.

        So is everything that is wrong once the run has begun: it may well be finished without the Hub.

        Raises:
            HubRefused: no token, no right, or a repository that holds other things.
        """
        try:
            self._remote.sign_in()
            if (head := self._remote.head()) is not None:
                self._remote.may_write()
                if self._settings["private"] is not None:
                    self._remote.check_visibility(private=self._settings["private"])
                read_document(self._remote, head, KIND)
        except Exception as error:
            if isinstance(error, HubRefused | LineageError) and not self._has_begun:
                raise HubRefused(f"publish: {error}") from None
            self._failed(error)

    def begin(self) -> None:
        """Write down where to push, so that `svp push RUN` can do it after everything else has failed."""
        write_json(self._run_dir / PUBLISHED_FILE, {"settings": self._settings, "versions": self._versions})

    def _failed(self, error: Exception) -> None:
        self._failure = _reason(error)
        log.warning("publish: %s; the run goes on, and it is tried again at its end", self._failure)

    def push(self, arm: str, seed: int, round: int, *, pool: Pool | None = None) -> Pushed | None:
        """Push a finished round, unless it was pushed or the Hub failed before; None where it was not pushed now."""
        if self._failure is not None or self._is_pushed(arm, seed, round):
            return None
        try:
            return self._push(arm, seed, round, pool)
        except Exception as error:  # whatever it is, a full disk or a file by a stranger, the run goes on
            self._failed(error)
            return None

    def finish(self, *, pool: Pool | None = None) -> list[str]:
        """Push what is left of all finished rounds, when nothing will be found out any more.

        Returns:
            what to tell the user: nothing where all are pushed.
        """
        self._failure = None
        try:
            self._push_rounds(pool)
            self._finish_card(pool)
        except Exception as error:
            number, left = len(self._rounds()), len(self._left())
            what = f"{left} of {number} versions are not on the Hub" if left else "the card is not up to date"
            later = "pushes them" if left else "brings it up to date"
            return [f"publish: {what} ({_reason(error)}); `svp push {self._run_dir}` {later} later"]
        return []

    def push_left(self, *, pool: Pool | None = None) -> list[Pushed]:
        """Push all finished rounds that are not on the Hub yet, in their order, and the card of a finished run.

        Returns:
            what was pushed; for a card alone, the version whose card it is, with `card_updated`.
        Raises:
            SVPError: what stopped it; the rounds before are pushed.
        """
        pushed = self._push_rounds(pool)
        results = self._run_dir / RESULTS_FILE
        if results.exists() and read_json(results)["finished"]:
            pushed += self._finish_card(pool)
        return pushed

    def _push_rounds(self, pool: Pool | None) -> list[Pushed]:
        return [self._push(*key, pool) for key in self._left()]

    def _finish_card(self, pool: Pool | None) -> list[Pushed]:
        """Once at the end: the card of the newest version tells errors that were not known when it was pushed."""
        if not self._versions or self._versions[-1].get("card"):
            return []
        last = self._versions[-1]
        done = self._send(last["arm"], last["seed"], last["round"], last["config"], pool)
        if done.card_failure is not None:
            raise HubError(f"{done.repo_id}: the card of {done.version} is as it was: {done.card_failure}")
        last["card"] = True
        self.begin()
        return [done] if done.card_updated else []

    def _rounds(self) -> list[tuple[str, int, int]]:
        return [key for key in finished_rounds(self._run_dir) if key[0] in self._settings["arms"]]

    def _left(self) -> list[tuple[str, int, int]]:
        return [key for key in self._rounds() if not self._is_pushed(*key)]

    def _is_pushed(self, arm: str, seed: int, round: int) -> bool:
        return any((v["arm"], v["seed"], v["round"]) == (arm, seed, round) for v in self._versions)

    def _push(self, arm: str, seed: int, round: int, pool: Pool | None) -> Pushed:
        parts = [arm] * self._settings["by_arm"] + [f"seed-{seed}"] * self._settings["by_seed"]
        config = "-".join(parts) or DEFAULT_CONFIG
        pushed = self._send(arm, seed, round, config, pool)
        self._versions.append(
            {"arm": arm, "seed": seed, "round": round, "config": config, "version": pushed.version, "sha": pushed.sha}
        )
        self.begin()
        log.info("  published %s of %s: %s", pushed.version, pushed.repo_id, pushed.url)
        return pushed

    def _send(self, arm: str, seed: int, round: int, config: str, pool: Pool | None) -> Pushed:
        options: dict[str, Any] = {"arm": arm, "seed": seed, "round": round, "config": config}
        with bundle_of(self._run_dir, KIND, index_only=self._settings["index_only"], pool=pool, **options) as bundle:
            return push_bundle(bundle, self._remote, private=self._settings["private"])


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SVPError) else first_line(error)
