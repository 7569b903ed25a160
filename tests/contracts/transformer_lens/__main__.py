"""`python -m tests.contracts.transformer_lens` writes the page that is made of the contract."""

from pathlib import Path

from tests.contracts.transformer_lens.page import PAGE, page

Path(PAGE).write_text(page(), encoding="utf-8")
