"""`python -m benchmarks.families`: verify a tiny random model of every family; and see what becomes of every class."""

import argparse
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tqdm.auto import tqdm
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from benchmarks.discovery import outcome
from mmlens.core.files import whole_file
from mmlens.models.survey import FamilyRecord, Survey, as_markdown, as_text, survey, write_survey
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


def _record(name: str) -> FamilyRecord:
    tiny = next(tiny for tiny in [*TINY, *FAMILIES] if tiny.name == name)
    model = tiny.make()
    return survey(model, batch_of(tiny, model), name=name, how="declared")


def _outcome(named: tuple[str, str]) -> str:
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    return outcome(*named)


def main() -> int:
    """Survey every family and every class; exit code 1 if a point fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    names = [tiny.name for tiny in [*TINY, *FAMILIES]]
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    with ProcessPoolExecutor(parser.parse_args().workers, get_context("spawn")) as pool:
        records = list(tqdm(pool.map(_record, names), total=len(names), unit="family"))
        outcomes = list(tqdm(pool.map(_outcome, mapping.items()), total=len(mapping), unit="class"))
    records.sort(key=lambda record: record.model)
    classes = dict(zip(mapping.values(), outcomes, strict=True))
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
