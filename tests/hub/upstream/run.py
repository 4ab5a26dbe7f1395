"""Run chosen tests of huggingface_hub's own against the local Hub: `make test-hub-upstream`.

Downloads the source package of the installed version, unpacks its tests into a temporary folder, puts a conftest of
ours beside them (the package has none), and says how many passed. Arguments go to pytest.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from localhub import LocalHub, User

CHOSEN = (
    "test_commit_api.py",
    "test_file_download.py",
    "test_snapshot_download.py",
    "test_hf_file_system.py",
    *(
        f"test_hf_api.py::{name}"
        for name in (
            "TestHfApiRepoFileExists",
            "TestCommitApi",
            "TestHfApiUploadEmptyFile",
            "TestHfApiDeleteFolder",
            "TestHfApiListRepoTree",
            "TestHfApiTagEndpoint",
            "TestHfApiBranchEndpoint",
            "TestHfApiDeleteFiles",
            "TestHfApiPrivate",
            "TestListGitCommits",
            "TestHfApiAuthCheck",
        )
    ),
)
LEFT_OUT = {
    "test_file_download.py::TestStagingDownload::test_download_regular_file_from_private_renamed_repo": "no renaming",
    "test_hf_api.py::TestCommitApi::test_create_repo_private_by_default": "no organization whose default is private",
    "test_hf_api.py::TestHfApiPrivate::test_list_private_models": "no search for repositories",
}


def unpack_tests(folder: Path) -> Path:
    """The tests of the installed huggingface_hub, in `folder`."""
    version = importlib.metadata.version("huggingface_hub")
    source = f"huggingface_hub=={version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "huggingface_hub",
        source,
    ]
    subprocess.run([*command, "--dest", folder], check=True)
    with tarfile.open(folder / f"huggingface_hub-{version}.tar.gz") as archive:
        members = [member for member in archive.getmembers() if "/tests/" in member.name]
        archive.extractall(folder, members=members, filter="data")
    return folder / f"huggingface_hub-{version}" / "tests"


def constants_of(tests: Path) -> dict[str, str]:
    """What upstream's tests/testing_constants.py sets to a plain string, like its users and tokens."""
    text = (tests / "testing_constants.py").read_text()
    return dict(re.findall(r'^([A-Z_]+) = "([^"]*)"$', text, re.MULTILINE))


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tests = unpack_tests(folder)
        known = constants_of(tests)
        tokens = {
            known["TOKEN"]: User(known["USER"]),
            known["OTHER_TOKEN"]: User(known["OTHER_USER"]),
            known["ENTERPRISE_TOKEN"]: User(known["ENTERPRISE_USER"], orgs=(known["ENTERPRISE_ORG"],)),
        }
        with LocalHub(folder / "hub", tokens) as hub:
            rewritten = (tests / "testing_constants.py").read_text().replace(known["ENDPOINT_STAGING"], hub.endpoint)
            (tests / "testing_constants.py").write_text(rewritten)
            (tests / "__init__.py").touch()
            (tests / "conftest.py").write_text(Path(__file__).with_name("upstream_conftest.py").read_text())
            environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
            environment |= {
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(folder / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "127.0.0.1,localhost",
            }
            left_out = [f"--deselect=tests/{name}" for name in LEFT_OUT]
            options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tests.parent}", "-W", "ignore"]
            command = [sys.executable, "-m", "pytest", *options, *left_out, *(f"tests/{name}" for name in CHOSEN)]
            result = subprocess.run([*command, *sys.argv[1:]], cwd=tests.parent, env=environment, check=False)
        for error in hub.errors:
            sys.stderr.write(error)
        for name, reason in LEFT_OUT.items():
            sys.stdout.write(f"left out: {name}: {reason}\n")
        return result.returncode


if __name__ == "__main__":
    sys.exit(main())
