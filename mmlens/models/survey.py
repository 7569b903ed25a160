"""What was found on each family: points, parity, causality and layout, measured and never typed by hand.

`python -m benchmarks.families` runs `survey` on a tiny random model of every family and writes the records that the
package ships and the table in `docs/families.md`; `mmlens families` prints them.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mmlens.core.files import require_file, whole_file
from mmlens.core.names import PARTS
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.protocol import HookedModel
from mmlens.models.verify import verify

RECORDS = Path(__file__).with_name("families.json")


@dataclass(frozen=True)
class FamilyRecord:
    """What was found on one tiny random model.

    Attributes:
        model: its short name.
        class_name: the Hugging Face class.
        family: the declaration that covers it.
        how: whether the family is declared or was discovered.
        points: number of hook points of the vision encoder, the projector and the language model.
        dead: how many of them cannot reach the logits, and say why.
        failed: how many did not fire, or did not move the logits as declared.
        parity: largest difference of logits from bare Hugging Face without hooks.
        hooked_parity: the same with every point hooked.
        places: the parts whose rows have places in the picture.
        video_parity: as `hooked_parity`, on videos; None if it reads none. Failures there count as `failed`.
        needs: packages beyond mmlens's own without which transformers cannot make the model, with the versions that were
            there.
    """

    model: str
    class_name: str
    family: str
    how: Literal["declared", "discovered"]
    points: tuple[int, int, int]
    dead: int
    failed: int
    parity: float
    hooked_parity: float
    places: tuple[str, ...]
    video_parity: float | None = None
    needs: tuple[str, ...] = ()


def survey(
    model: HookedModel,
    batch: MultimodalBatch,
    *,
    name: str,
    how: Literal["declared", "discovered"],
    video_batch: MultimodalBatch | None = None,
    needs: tuple[str, ...] = (),
) -> FamilyRecord:
    """Verify a model and say in one record what was found.

    Args:
        model: the hooked model.
        batch: what to run on.
        name: its short name in the table.
        how: whether its family is declared or was discovered.
        video_batch: a batch of videos, if it reads them.
        needs: packages that transformers needs to make it, with their versions.
    """
    report = verify(model, batch, progress=False)
    on_videos = None if video_batch is None else verify(model, video_batch, progress=False)
    parts = set.intersection(*(set(places.grids) for places in batch.layout.places)) if batch.layout.places else set()
    vision, projector, language = (sum(node.part == part for node in model.graph) for part in PARTS)
    return FamilyRecord(
        model=name,
        class_name=type(model.hf_model).__name__,
        family=model.family.name,
        how=how,
        points=(vision, projector, language),
        dead=sum(point.dead is not None for point in report.points),
        failed=len(report.failed) + (len(on_videos.failed) if on_videos else 0),
        parity=report.parity,
        hooked_parity=report.hooked_parity,
        places=tuple(part for part in PARTS if part in parts),
        video_parity=on_videos.hooked_parity if on_videos else None,
        needs=needs,
    )


@dataclass(frozen=True)
class Survey:
    """What was found on all families.

    Attributes:
        records: one per tiny model of a declared family.
        classes: for every class that transformers lists for pictures and text, what becomes of it: `"declared"`,
            `"discovered"`, `"out of scope: ..."`, or what stopped it.
    """

    records: tuple[FamilyRecord, ...]
    classes: dict[str, str]

    def counts(self) -> dict[str, int]:
        """Number of classes by outcome, without the details."""
        return dict(Counter(outcome.split(":")[0] for outcome in self.classes.values()).most_common())


def write_survey(survey: Survey, path: Path = RECORDS) -> None:
    """Write a survey, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(survey), indent=1) + "\n", encoding="utf-8")


def read_survey(path: Path = RECORDS) -> Survey:
    """Read the survey that the package ships."""
    content: dict[str, Any] = json.loads(require_file(path, "survey of the families").read_text(encoding="utf-8"))
    records = [
        FamilyRecord(**entry | {key: tuple(entry.get(key, ())) for key in ("points", "places", "needs")})
        for entry in content["records"]
    ]
    return Survey(tuple(records), content["classes"])


_HEADER = (
    "model",
    "class",
    "how",
    "points: vision, projector, language",
    "dead",
    "failed",
    "bare",
    "all hooked",
    "places",
    "videos",
)


def table_rows(records: Sequence[FamilyRecord]) -> list[tuple[str, ...]]:
    """The table's cells, its header first."""
    return [
        _HEADER,
        *(
            (
                record.model,
                record.class_name,
                record.how,
                ", ".join(map(str, record.points)),
                str(record.dead),
                str(record.failed),
                f"{record.parity:g}",
                f"{record.hooked_parity:.1e}",
                ", ".join(record.places) or "none",
                "-" if record.video_parity is None else f"{record.video_parity:.1e}",
            )
            for record in records
        ),
    ]


def as_text(records: Sequence[FamilyRecord]) -> str:
    """The table for a terminal."""
    cells = table_rows(records)
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def as_markdown(records: Sequence[FamilyRecord]) -> str:
    """The table for the documentation."""
    header, *body = table_rows(records)
    lines = [header, tuple("---" for _ in header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
