"""The few calls of Label Studio's REST API that are needed here.

GET   /api/version                      POST  /api/projects           PATCH /api/projects/ID
GET   /api/projects?title=              GET   /api/projects/ID        POST  /api/projects/ID/import
GET   /api/tasks?project=ID&page=       GET   /api/users              POST  /api/token/refresh
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlencode

from svp_nlp.errors import LabelStudioRefused
from svp_nlp.labeling.label_studio_http import Connection, Patience

Json: TypeAlias = dict[str, Any]

OLDEST = (1, 10)  # tried with 1.23.2; the calls are documented as they are used since then
_OF_ANNOTATION = ("result", "completed_by", "was_cancelled", "created_at", "updated_at")
_PAGE = 500  # tasks; one page of 500 texts of 10 kB is 5 MB


class Client:
    """A Label Studio server, and who we are there."""

    def __init__(self, url: str, token: str, *, patience: Patience | None = None) -> None:
        """Nothing is sent yet.

        Args:
            url: of the server: http://localhost:8080, or with a path where it lives below one.
            token: a personal access token, or a legacy token.
        Raises:
            LabelStudioRefused: no such address or token can be.
        """
        self._server = Connection(url, token, patience=patience)
        self.url = self._server.url

    def version(self) -> str:
        """The server's version.

        Raises:
            LabelStudioRefused: it is older than what is known to work, or no Label Studio.
        """
        told = self._server.send("GET", "/api/version", signed=False)
        release = str(told.get("release", "")) if isinstance(told, dict) else ""
        numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
        if not numbers:
            raise LabelStudioRefused(f"{self.url} is no Label Studio: /api/version names no release")
        if numbers < OLDEST:
            raise LabelStudioRefused(
                f"{self.url} is Label Studio {release}; expected {'.'.join(map(str, OLDEST))} or newer: update the "
                "server, or go by files: svp label export RUN --to label_studio"
            )
        return release

    def project(self, id: int) -> Json:
        """A project.

        Raises:
            LabelStudioRefused: there is none with this number that the token may see.
        """
        found: Json = self._server.send("GET", f"/api/projects/{id}", what=f"project {id}")
        return found

    def projects(self, title: str) -> list[Json]:
        """The projects with exactly this title, the oldest first."""
        found: list[Json] = []
        page = 1
        while True:
            told = self._server.send(
                "GET", "/api/projects?" + urlencode({"title": title, "page": page, "page_size": 100})
            )
            found += self._listed(told, "results")
            if not told.get("next"):
                break
            page += 1
        return sorted((one for one in found if one["title"] == title), key=lambda one: int(one["id"]))

    def create_project(self, fields: Mapping[str, Any]) -> Json:
        """A new project."""
        made: Json = self._server.send("POST", "/api/projects", fields, once=True)
        return made

    def change_project(self, id: int, fields: Mapping[str, Any]) -> Json:
        """Change these fields of a project."""
        changed: Json = self._server.send("PATCH", f"/api/projects/{id}", fields, what=f"project {id}")
        return changed

    def tasks(self, project: int, *, annotations: bool = False) -> Iterator[Json]:
        """All tasks of a project by their number, which is the order in which they were imported.

        Args:
            annotations: whether each comes with its annotations.
        """
        page, seen = 1, 0
        # With `include` a server needs a quarter of the time; without `resolve_uri` a text that looks like an address
        # of its storage stays as it is.
        options = {
            "project": project,
            "page_size": _PAGE,
            "fields": "all" if annotations else "task_only",
            "include": ",".join(("id", "data", *(("annotations", *_OF_ANNOTATION) if annotations else ()))),
            "resolve_uri": "false",
            "query": '{"ordering":["tasks:id"]}',
        }
        while True:
            path = "/api/tasks?" + urlencode({**options, "page": page})
            told = self._server.send("GET", path, what=f"project {project}")
            tasks = self._listed(told, "tasks")
            for task in tasks:
                for annotation in self._listed(task, "annotations") if annotations else ():
                    if missing := set(_OF_ANNOTATION) - annotation.keys():
                        raise self._strange(f"annotations without {', '.join(sorted(missing))}")
                yield task
            seen += len(tasks)
            if seen >= int(told.get("total", 0)) or not tasks:
                return
            page += 1

    def import_tasks(self, project: int, tasks: Sequence[Json]) -> bool:
        """Add tasks to a project, all or none of them; whether they are there when this returns, or will be.

        Raises:
            Uncertain: no answer came.
            BadRequest: the server takes none of them; says why.
        """
        told = self._server.send("POST", f"/api/projects/{project}/import", tasks, what=f"project {project}", once=True)
        return isinstance(told, dict) and "task_count" in told

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Wait for what the server does in its own time.

        Raises:
            Uncertain: it does not happen.
        """
        self._server.wait_for(is_there)

    def users(self) -> dict[int, str]:
        """Number -> e-mail address, or the name of a user without one. Empty where the token may not see them."""
        try:
            found = self._server.send("GET", "/api/users")
        except LabelStudioRefused:
            return {}
        if not isinstance(found, list):
            return {}
        return {int(user["id"]): str(user.get("email") or user.get("username") or "") for user in found}

    def _listed(self, told: Any, key: str) -> list[Json]:
        found = told.get(key) if isinstance(told, dict) else None
        if not isinstance(found, list):
            raise self._strange(f"no list of {key}")
        return found

    def _strange(self, what: str) -> LabelStudioRefused:
        return LabelStudioRefused(
            f"{self.url} answers with {what}, unlike every Label Studio that this was tried with; go by files: export "
            "JSON there, then svp label import RUN FILE"
        )
