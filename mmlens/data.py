"""Data sets: readers of the files that are published, and samples of anything else by a declared mapping."""

from mmlens.analysis.readers.coco import coco_captions, coco_instances
from mmlens.analysis.readers.declared import from_jsonl, from_rows
from mmlens.analysis.readers.gqa import gqa
from mmlens.analysis.readers.karpathy import karpathy
from mmlens.analysis.readers.mm_safety_bench import mm_safety_bench
from mmlens.analysis.readers.pope import pope
from mmlens.analysis.readers.sample_set import SampleSet
from mmlens.analysis.readers.sbu import sbu_captions
from mmlens.analysis.readers.visual_genome import visual_genome
from mmlens.analysis.readers.vqa import vqa_v2
from mmlens.analysis.samples.sample import Sample

__all__ = [  # noqa: RUF022
    "coco_captions",
    "coco_instances",
    "from_jsonl",
    "from_rows",
    "gqa",
    "karpathy",
    "mm_safety_bench",
    "pope",
    "Sample",
    "SampleSet",
    "sbu_captions",
    "visual_genome",
    "vqa_v2",
]
