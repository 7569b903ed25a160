"""`python -m benchmarks.families`: verify a tiny random model of every family; and see what becomes of every class."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tqdm.auto import tqdm
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from benchmarks.discovery import outcome
from mmlens.core.files import whole_file
from mmlens.models.survey import Survey, as_markdown, as_text, survey, write_survey
from tests.contracts.test_families import batch_of
from tests.families import FAMILIES
from tests.tiny import TINY

_PAGE = Path(__file__).parent.parent / "docs" / "families.md"
_TEXT = """# Families

Every row is the result of a run on a tiny random model of the real transformers class: every listed hook point fired and was
edited, logits were compared with bare Hugging Face without hooks and with every point hooked, and the parts whose rows have
places in the picture were painted box by box. `python -m benchmarks.families` writes this page.

*dead*: points that cannot reach the logits and say why. *bare*, *all hooked*: largest difference of a logit, float32.
*places*: the parts whose rows `batch.layout` maps to pixels; rows of the others say why they have none.

{table}

## Every class that transformers lists for pictures and text

{counts}. *Discovered*: no family is declared; the parts were found from how a tiny random model runs on an example, and verified.

{classes}
"""


def main() -> int:
    """Survey every family; exit code 1 if a point fails."""
    argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__).parse_args()
    records = []
    for tiny in tqdm([*TINY, *FAMILIES], unit="family"):
        model = tiny.make()
        records.append(survey(model, batch_of(tiny, model), name=tiny.name, how="declared"))
    records.sort(key=lambda record: record.model)
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    classes = {name: outcome(model_type, name) for model_type, name in tqdm(mapping.items(), unit="class")}
    found = Survey(tuple(records), dict(sorted(classes.items())))
    write_survey(found)
    counts = ", ".join(f"{count} {what}" for what, count in found.counts().items())
    listed = "\n".join(f"| {name} | {what} |" for name, what in found.classes.items())
    page = _TEXT.format(
        table=as_markdown(records),
        counts=counts[0].upper() + counts[1:],
        classes=f"| class | outcome |\n| --- | --- |\n{listed}",
    )
    with whole_file(_PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(as_text(records))
    print(counts)
    return int(any(record.failed or record.parity for record in records))


if __name__ == "__main__":
    raise SystemExit(main())
