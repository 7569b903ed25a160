"""The README's code runs as it stands, on the lab model, one block after the other."""

from typing import Any

from docs import executed


def test_the_code_of_the_readme_runs() -> None:
    names: dict[str, Any] = {}
    assert len(list(executed.run(executed.FOLDER.parent / "README.md", names))) >= 4
    assert names["model"].active_adapters == ()
