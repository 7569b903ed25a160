"""Features read as words."""

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Feature, Unit
from mmlens.models.direct_path import stream_logits
from mmlens.models.hooked import HookedMultimodal, WritingModel


@checked
@torch.no_grad()
def feature_words(model: WritingModel, features: UnitsLike, *, k: Count = 5) -> list[list[str]]:
    """The k words that each feature's row of `W_dec` raises most: `W_dec_i * gain W_U`, with the final norm's gain.

    Args:
        model: the hooked model, with the dictionaries attached.
        features: features that write into the language model's stream, or their names.
        k: words per feature.

    Returns:
        One list of words per feature, best first.

    Raises:
        InputError: for features whose dictionary is not attached, or that write elsewhere.
    """
    units = Units.of(features, model, kind=Feature, verb="feature_words", empty=True)
    if not 1 <= k <= model.W_U.shape[1]:
        raise InputError(f"k={k} words must lie in 1..{model.W_U.shape[1]}, the size of the vocabulary.")
    others = [str(unit) for unit in units if model.graph[site_of(unit)].role is None or unit.part != "language"]
    if others:
        raise InputError(
            f"{', '.join(others[:5])} do not write into the language model's stream, so they are not words."
        )
    rows = [dictionary_of(model, unit).W_dec[unit.index] for unit in units]
    best = [stream_logits(model, row[None])[0].topk(k).indices for row in rows]
    return [[model.to_string(token).strip() for token in tokens] for tokens in best]


def site_of(feature: Unit) -> str:
    """The point whose states a feature's dictionary gives back."""
    return feature.hook.removesuffix(f".{Feature.point}")


def dictionary_of(model: HookedMultimodal, feature: Unit) -> SparseDictionary:
    """The dictionary that a feature belongs to, which is attached.

    Raises:
        InputError: for another kind of dictionary.
    """
    dictionary = model.dictionaries[site_of(feature)]
    if not isinstance(dictionary, SparseDictionary):
        raise InputError(f"{feature} belongs to a {type(dictionary).__name__}, of which mm.load_sae knows nothing.")
    return dictionary
