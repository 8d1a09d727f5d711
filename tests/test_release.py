"""The files of a release agree on version, dependencies and targets; actions are pinned."""

import re

import pytest

from tools import ROOT, release

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_what_names_the_version_agrees():
    assert release.mistakes() == []


def test_another_tag_is_refused():
    assert "the tag is v999" in " ".join(release.mistakes("v999"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_commit(path):
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert [u for u in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_workflows_make_is_in_the_makefile(path):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make (\w+)", path.read_text())) <= set(targets)
