"""What scores of neurons show: the best with their words, and where they are active beside where their control is."""

from dataclasses import replace

import numpy as np
from PIL import Image

from mmlens.analysis.controls.random_units import random_units
from mmlens.analysis.neurons.maps import activation_maps
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.core.errors import NoPlaceError
from mmlens.core.unit_sets import UnitsLike
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.viz.page.boxes import boxes_of_map, numbers, require_picture_of
from mmlens.viz.page.pack import Pack, PackArray, PackTable, Scale
from mmlens.viz.words import shown

#: Neurons in the table, and those with a map of their own.
_LISTED, _MAPPED = 20, 12
_WORDS = 5
_CONTROL = "random neurons of the same layers, mean of 20 draws"


def neuron_pack(scores: NeuronScores, picture: Image.Image | None, run: bool = False) -> Pack:
    """The top neurons with their words: by layer, or from one run where each is active, beside random ones of its layers."""
    k = min(_LISTED, scores.scores.numel())
    frame = scores.to_frame(k, words=_WORDS)
    words = [shown(str(said), 60) for said in frame["words"]] if "words" in frame else [""] * k
    best = scores.top(1)[0]
    over = "one sample" if scores.n_samples == 1 else f"mean of {scores.n_samples} samples"
    writes = f", which writes {words[0]!r}" if words[0] else ""
    pack = Pack(
        f"{scores.word!r} rests most on {best} ({scores[best]:.3g} logits, {over}){writes}.",
        caption=f"Scores by {scores.method.replace('_', ' ')}, of {scores.scores.numel():,} neurons.",
        tables=(
            PackTable(f"The top {k}", tuple(map(str, frame.columns)), tuple(map(tuple, frame.to_numpy().tolist()))),
        ),
    )
    if run and scores.model is not None and scores.batch is not None:
        return _maps(scores, scores.model, scores.batch, pack, picture, words)
    counts = np.asarray(scores.layers(k), dtype=np.float64)[None]
    return replace(
        pack,
        arrays=(PackArray("layers", f"the top {k} by layer", counts, ("layer", "group")),),
        labels={"group": [str(layer) for layer in range(counts.shape[1])]},
        notes=("Where they are active in the picture, beside random neurons of the same layers: .view().",),
    )


def _maps(
    scores: NeuronScores,
    model: HookedMultimodal,
    batch: MultimodalBatch,
    pack: Pack,
    picture: Image.Image | None,
    words: list[str],
) -> Pack:
    """Where the best neurons are active; without a picture, or where rows have no place, the reason."""
    if picture is None and not batch.images:
        return replace(pack, notes=("The batch was made of tensors: .view(picture) shows where they are active.",))
    picture = batch.images[scores.sample][0] if picture is None else picture
    top = scores.top(min(_LISTED, scores.scores.numel()))
    sets: dict[str, UnitsLike] = {f"mean of the top {len(top)}": top, **{str(unit): [unit] for unit in top[:_MAPPED]}}
    control = [unit for draw in random_units(model, like=top, seed=0) for unit in draw]
    try:
        maps = activation_maps(
            model, batch, {**sets, _CONTROL: control}, activation=scores.activation, sample=scores.sample
        )
    except NoPlaceError as error:
        return replace(pack, notes=(f"There is no map over the picture: {error}",))
    require_picture_of(picture, maps[_CONTROL].size)
    values = np.stack([numbers(maps[name].values).ravel() for name in sets])
    beside = np.broadcast_to(numbers(maps[_CONTROL].values).ravel(), values.shape)
    scale: Scale = "signed" if min(values.min(), beside.min()) < 0 else "positive"
    title = "activation where the picture is"
    said = [f"{name}\t{scores[name]:.2f}\t{word}" for name, word in zip(list(sets)[1:], words, strict=False)]
    return replace(
        pack,
        arrays=(
            PackArray("neurons", title, values, ("item", "patch"), scale=scale, limit="each", control=_CONTROL),
            PackArray(_CONTROL, _CONTROL, beside, ("item", "patch"), scale=scale, limit="each"),
        ),
        picture=picture,
        boxes=boxes_of_map(maps[_CONTROL]),
        labels={"item": [next(iter(sets)), *said]},
    )
