"""The README's code runs as it stands, on the lab model, one block after the other."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs() -> None:
    text = README.read_text(encoding="utf-8").split("## A real checkpoint")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["model"].active_adapters == ()  # type: ignore[attr-defined]
