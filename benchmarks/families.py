"""`python -m benchmarks.families`: verify a tiny random model of every family; and see what becomes of every class."""

import argparse
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tqdm.auto import tqdm
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from benchmarks.discovery import outcome
from mmlens.core.files import whole_file
from mmlens.declarations.registry import families
from mmlens.models.survey import FamilyRecord, Survey, as_markdown, as_text, read_survey, survey, write_survey
from tests.contracts.test_families import batch_of
from tests.contracts.test_videos import Filmed
from tests.contracts.test_videos import batch_of as filmed_batch
from tests.families import FAMILIES
from tests.tiny import TINY

_PAGE = Path(__file__).parent.parent / "docs" / "families.md"
_TEXT = """# Families

Every row is the result of a run on a tiny random model of the real transformers class: every listed hook point fired and was
edited, logits were compared with bare Hugging Face without hooks and with every point hooked, and the parts whose rows have
places in the picture were painted box by box. `python -m benchmarks.families` writes this page.

*dead*: points that cannot reach the logits and say why. *bare*, *all hooked*: largest difference of a logit, float32.
*places*: the parts whose rows `batch.layout` maps to pixels; rows of the others say why they have none. *videos*: as *all
hooked*, on `prepare(text, videos=...)`; the other models read none here.

{table}

{further}

## Videos

`model.prepare(text, videos=frames)` takes the frames of a video, as an array `[frame height width 3]` or a list of pictures, and
makes the tensors that the family's own video processor makes, without torchvision (where that one is there, it is used).
`batch.layout.grid(part, frame=...)` names the rows of a frame, and `Places.frames` the frames of a row: where a tower reads two
frames at once, its rows stand for both. Files are not decoded, and no frames are left out. Pictures and videos come in batches of
their own, as the tower would run once for each.

Other models that can see videos take pictures alone here: Gemma 4, SmolVLM, Molmo 2, MiniCPM-V, VideoLLaMA 3, Ernie 4.5 VL,
PerceptionLM, and Cosmos 3 Edge. Video-LLaVA's tower for videos has no hook points. To InstructBlipVideo a frame is a picture;
it takes the tensors of its own processor. The thinkers of the Omni models read videos without their sound.

## Dual encoders

CLIP, SigLIP and SigLIP 2 (and MetaCLIP 2, CLIPSeg's towers, which are built as CLIP) have two towers and scores of pictures and
texts in the place of logits: the text tower's points are counted under *language*, what makes the picture's embedding under
*projector* ([what can be asked of them](dual_encoders.md)).

## Every class that transformers lists for pictures and text

{counts}. *Discovered*: no family is declared; the parts were found from how a tiny random model runs on an example, and verified.

{classes}
"""

_NEEDS = """{models}: transformers makes their towers with packages that mmlens does not require. These rows were recorded with
{packages}; where they are missing, the tests of these models are skipped, and the rows stay as they were. torchvision's compiled
operators were left out; these models call none of them."""


def _record(name: str) -> FamilyRecord:
    tiny = next(tiny for tiny in [*TINY, *FAMILIES] if tiny.name == name)
    model = tiny.make()
    filmed = None if model.family.videos is None else filmed_batch(Filmed(name), model)
    needs = tuple(f"{package} {version(package)}" for package in tiny.needs)
    return survey(model, batch_of(tiny, model), name=name, how="declared", video_batch=filmed, needs=needs)


def _outcome(named: tuple[str, str]) -> str:
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    return outcome(*named)


def _page(found: Survey) -> str:
    """The page of the documentation."""
    counts = ", ".join(f"{count} {what}" for what, count in found.counts().items())
    listed = "\n".join(f"| {name} | {what} |" for name, what in found.classes.items())
    return _TEXT.format(
        table=as_markdown(found.records),
        further=_further(found),
        counts=counts[0].upper() + counts[1:],
        classes=f"| class | outcome |\n| --- | --- |\n{listed}",
    )


def _further(found: Survey) -> str:
    """On which condition some models were checked."""
    models: dict[tuple[str, ...], list[str]] = {}
    for record in found.records:
        if record.needs:
            models.setdefault(record.needs, []).append(record.model)
    return "\n\n".join(
        _NEEDS.format(models=", ".join(named), packages=" and ".join(on)) for on, named in models.items()
    )


def _surveyed(pool: ProcessPoolExecutor, names: list[str]) -> dict[str, FamilyRecord]:
    """A record of each model that is named."""
    return dict(zip(names, tqdm(pool.map(_record, names), total=len(names), unit="family"), strict=True))


def main() -> int:
    """Survey every family and every class; exit code 1 if a point fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument(
        "--only", nargs="+", metavar="MODEL", help="survey these models again, and keep all else as it was"
    )
    asked = parser.parse_args()
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    before = read_survey()
    with ProcessPoolExecutor(asked.workers, get_context("spawn")) as pool:
        if asked.only:
            records = {record.model: record for record in before.records} | _surveyed(pool, asked.only)
            declared = {name: "declared" for name in families() if name in before.classes}
            classes = before.classes | declared
        else:
            known = [*TINY, *FAMILIES]
            missing = {tiny.name for tiny in known if tiny.missing}
            kept = {record.model: record for record in before.records if record.model in missing}
            records = kept | _surveyed(pool, [tiny.name for tiny in known if tiny.name not in missing])
            outcomes = tqdm(pool.map(_outcome, mapping.items()), total=len(mapping), unit="class")
            classes = dict(zip(mapping.values(), outcomes, strict=True))
    found = Survey(tuple(records[name] for name in sorted(records)), dict(sorted(classes.items())))
    write_survey(found)
    with whole_file(_PAGE) as temporary:
        temporary.write_text(_page(found), encoding="utf-8")
    print(as_text(found.records))
    print(found.counts())
    return int(any(record.failed or record.parity for record in found.records))


if __name__ == "__main__":
    raise SystemExit(main())
