"""Which of many steering vectors to use."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch

from mmlens.analysis.samples.sample import Dataset
from mmlens.analysis.steering.method import Selection, Validation
from mmlens.analysis.steering.methods import SELECTION_METHODS, SelectionChoice
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Text
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import WritingModel
from mmlens.models.runs import Intervention

Key = TypeVar("Key", bound=Hashable)


@checked
@torch.no_grad()
def select_vectors(
    model: WritingModel,
    vectors: Mapping[Key, SteeringVector | Intervention],
    dataset: Dataset | None = None,
    *,
    method: SelectionChoice = "effect",
    k: Count = 5,
    prompt: Text | None = None,
    batch_size: Count = 16,
    progress: bool = True,
) -> Selection:
    """Choose among steering vectors: by what they do to a model's answers, or by where they point.

    Args:
        model: the hooked model.
        vectors: by key: vectors, e.g. the fine ones of a bank, which act as `mm.Steer(vector)`; or interventions that say
            where they act: `{pair: mm.Steer(vector, positions="prompt") for pair, vector in vectors.items()}`.
        dataset: the validation set of `"effect"`; see `mmlens.analysis.samples.sample.Dataset`.
        method: `"effect"`, the gap rule; or settings: `mm.steering.Effect(n_targets=2)`, `mm.steering.Proximity(reference)`.
            docs/methods.md lists them.
        k: how many are chosen at most.
        prompt: asked where a sample brings none.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        `.chosen`, the keys best first, and `.scores` of all; by effect also `.effects` and `.leading_to(answer)`.

    Raises:
        InputError: for no vectors or samples, and for vectors that the model cannot be steered with; before any forward pass.

    Example:
        >>> import mmlens as mm
        >>> words = {word: model.W_U[:, model.to_single_token(word)] for word in ("yes", "red")}
        >>> at = "blocks.5.hook_resid_post"
        >>> vectors = {word: mm.steering.SteeringVector(500 * column, at) for word, column in words.items()}
        >>> where = mm.positions.last | mm.positions.generated
        >>> steers = {word: mm.Steer(vector, positions=where) for word, vector in vectors.items()}
        >>> data = [(scene.image, "where is this"), (scene.image, "how many objects are there")]
        >>> mm.steering.select_vectors(model, steers, data, method=mm.steering.Effect(max_new_tokens=1), progress=False).chosen
        ('yes', 'red')
        >>> mm.steering.select_vectors(model, vectors, method=mm.steering.Proximity(vectors["red"]), k=1).chosen
        ('red',)
    """
    if not vectors:
        raise InputError("There are no vectors to choose from.")
    chooser = SELECTION_METHODS.get(method)
    interventions = {
        key: Steer(value) if isinstance(value, SteeringVector) else value for key, value in vectors.items()
    }
    validation = None if dataset is None else Validation(dataset, prompt, batch_size, progress)
    chooser.check(model, interventions, validation)
    return chooser.select(model, interventions, validation, k)
