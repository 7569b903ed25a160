"""Names that the examples in docstrings may use: `model` and `batch` (the lab model and a batch for it), `scene`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start; see THREADS

import pytest
import torch

#: Tiny tensors gain nothing from threads, and waiting for a second one on a busy machine costs fifty times the work.
THREADS = 1


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def _messages_alone() -> Iterator[None]:
    """`pytest.raises(match=)` reads notes as well: tests pin messages, and `tests/test_pages.py` what stands below them."""
    from mmlens.core.errors import MMLensError

    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(MMLensError, "__notes__")
        yield


@pytest.fixture(autouse=True)
def _doctest_names(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        doctest_namespace.update(request.getfixturevalue("example_names"))


@pytest.fixture(scope="session")
def example_names() -> dict[str, Any]:
    """The lab model, a scene, and a batch of it; a tiny LLaVA where no lab model has been trained yet."""
    from mmlens import lab
    from tests.tiny import TINY

    scene = lab.scene(seed=7)
    model = lab.load() if (Path(lab.path()) / "model.safetensors").is_file() else TINY[0].make()
    return {"model": model, "scene": scene, "batch": model.prepare("describe the image", images=scene.image)}
