"""The lowest versions: what `.ci/versions lowest` installs is what pyproject.toml claims."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_lowest_slice_runs_at_the_versions_that_are_claimed() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    claims = dict(re.findall(r'^  "([\w-]+)>=([\d.]+)', project, re.MULTILINE))
    pins = dict(
        re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert len(pins) > 20
    for name, version in pins.items():
        if name != "torch":  # the lowest one that has a build for the CPU alone is used
            assert claims[name] == version, name
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert dependencies is not None
    assert set(re.findall(r'"([\w-]+)>=', dependencies[1])) <= set(pins)
