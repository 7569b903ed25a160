"""Studies that are run once: with published settings on a small LLaVA that says what they need; the lab model and its scenes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import mmlens as mm
from mmlens.models.hooked import HookedMultimodal
from tests.analysis.readers import published
from tests.recipes.talker import photographs, small_llava, taught

SMALL = {
    "pan": mm.recipes.PanSettings(
        samples=4, max_new_tokens=16, ks=(3, 8), causal_k=8, causal_samples=1, edit_k=3, draws=1, together=2, concept_k=5,
        pictures=1,
    ),
    "parekh": mm.recipes.ParekhSettings(
        samples=48, max_new_tokens=16, layers=(15, 31), n_concepts=2, numbers=(1, 2), pictures=2, least=4
    ),
    "khayatan": mm.recipes.KhayatanSettings(
        alphas=(1.0,), layers=(31, 15), vector_questions=40, questions=24, sweep_questions=12, vector_captions=60,
        captions=40, requests=16, caption_tokens=12, n_concepts=2, tune_samples=8, steps=2, tune_batch=2, rate=1e-4,
        shift_captions=24,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def lab_model() -> HookedMultimodal:
    return mm.lab.load()


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> HookedMultimodal:
    """See `tests.recipes.talker`."""
    return taught(small_llava(tmp_path_factory.mktemp("hub") / "llava"))


#: Dark and bright pictures, and the limit: as few as every stage can be answered with.
PICTURES = {"pan": ("ddbd", 4), "parekh": ("d" * 41 + "bbb", 44), "khayatan": ("dbbd" * 3, 12)}


@pytest.fixture(scope="session")
def albums(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the files that a study reads."""
    into = tmp_path_factory.mktemp("albums")
    return cache(lambda paper: photographs(into / paper, PICTURES[paper][0]))


@pytest.fixture(scope="session")
def studies(
    tmp_path_factory: pytest.TempPathFactory, talker: HookedMultimodal, albums: Callable[[str], Path]
) -> Callable[[str], mm.recipes.Reproduction]:
    """The studies with published settings, each run when it is first asked for."""
    into, runs = tmp_path_factory.mktemp("studies"), {}

    def study(paper: str) -> mm.recipes.Reproduction:
        if paper not in runs:
            runs[paper] = mm.recipes.reproduce(
                paper,
                into=into,
                model=talker,
                data=albums(paper),
                published=True,
                limit=PICTURES[paper][1],
                progress=False,
            )
        return runs[paper]

    return study


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of every data set that the studies read, about scenes."""
    folder, scenes = tmp_path_factory.mktemp("files"), mm.lab.scenes(8, seed=3)
    published.coco_captions(scenes, folder)
    published.vqa_v2(scenes, folder)
    published.visual_genome(scenes, folder)
    published.mm_safety_bench(scenes[:2], folder)
    return folder
