"""Steering vectors of each sample: from two completions of its own prompt, or from its picture.

    contrastive   z_X = h(X || T+) - h(X || T-)       states of the completions' tokens (their mean, or the last)
    visual        v_X = h(X with its picture) - h(X without it)      the state of the prompt's last token

Source: Parekh et al., "Learning to Steer: Input-dependent Steering for Multimodal LLMs", 2025
(https://arxiv.org/abs/2508.12815), section 3 (P2S), github.com/jayneelparekh/learn-to-steer; Li et al., "The Hidden Life of
Tokens: Reducing Hallucination of Large Vision-Language Models via Visual Information Steering", ICML 2025
(https://arxiv.org/abs/2502.03628), section 4.1 (VISTA), github.com/LzVv123456/VISTA. *Departs:* the published code of the first
counts samples by a global number that every hooked module raises; here a vector belongs to its sample's key. That of the second
takes the "first principal component" of a single difference, which is a basis vector; here the difference itself is the vector.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.samples.sample import Dataset, Sample, batches
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Text
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.steering_table import SteeringTable
from mmlens.models.contrast.methods.pai import PAI
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.refusal import refuse_forward

#: What a sample goes on with: the same text for all, one each in their order, or what a function says of it.
Completions: TypeAlias = Text | Sequence[str] | Callable[[Sample], str]


@checked
@torch.no_grad()
def contrastive_vectors(
    model: WritingModel,
    dataset: Dataset,
    *,
    positive: Completions,
    negative: Completions,
    at: Points,
    state: Literal["mean", "last"] = "mean",
    batch_size: Count = 8,
    progress: bool = True,
) -> dict[str, SteeringTable]:
    """A steering vector of each sample: what one completion of its prompt brings about that another does not (P2S).

    An oracle: the completions have to be known. Their mean is the usual contrastive vector, `learn_predictor` predicts them.

    Args:
        model: the hooked model.
        dataset: see `mmlens.analysis.samples.sample.Dataset`.
        positive: what follows the prompt where the model should go: a text, one per sample, or a function of the sample.
        negative: what follows it where it should not.
        at: hook points of the language model.
        state: of the completion: the mean over its tokens (POPE, in the paper), or its last token (safety).
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        By hook name, `positive - negative` of each sample, under the sample's key.

    Raises:
        InputError: for completions that are the same, empty, or not as many as samples.

    Example:
        >>> tables = contrastive_vectors(
        ...     model, [scene], positive="yes", negative="no", at="blocks.4.hook_resid_post", progress=False
        ... )
        >>> tables["blocks.4.hook_resid_post"]
        SteeringTable(blocks.4.hook_resid_post, [1, 192] by sample)
    """
    names = [node.name for node in model.graph.select(at)]
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    keys: list[str] = []
    for samples, batch in batches(model, dataset, batch_size=batch_size, progress=progress, desc="vectors"):
        sides = [_completions(side, samples, len(keys)) for side in (positive, negative)]
        equal = [sample for sample, (first, second) in enumerate(zip(*sides, strict=True)) if first == second]
        if equal:
            raise InputError(
                f"positive and negative of sample {len(keys) + equal[0]} are both {sides[0][equal[0]]!r}; give two that differ."
            )
        states = [_states(model, batch, texts, names, state) for texts in sides]
        for name in names:
            rows[name].append(states[0][name] - states[1][name])
        keys += [sample.key for sample in samples]
    for side, texts in (("positive", positive), ("negative", negative)):
        if not isinstance(texts, str) and not callable(texts) and len(texts) != len(keys):
            raise InputError(f"{side} has {len(texts)} completions for {len(keys)} samples; give one each.")
    return _tables(rows, keys, f"contrastive completions, {state}")


@checked
@torch.no_grad()
def visual_vectors(
    model: HookedMultimodal, dataset: Dataset, *, at: Points, batch_size: Count = 8, progress: bool = True
) -> dict[str, SteeringTable]:
    """A steering vector of each sample: what its picture brings about in the last state of its prompt (VISTA).

    Added at `blocks.*.hook_mlp_out`, relative and adaptive: `mm.Steer(table, 0.17, scale="adaptive", at=...)` is the paper's for
    captions of LLaVA-1.5, 0.01 for questions.

    Args:
        model: the hooked model.
        dataset: see `mmlens.analysis.samples.sample.Dataset`.
        at: hook points of the language model.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        By hook name, the state with the picture minus that of the same prompt with the picture cut out, by the sample's key.

    Raises:
        InputError: for samples without a picture, and models that take no prompt without one.
    """
    names = [node.name for node in model.graph.select(at)]
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    keys: list[str] = []
    for samples, batch in batches(model, dataset, batch_size=batch_size, progress=progress, desc="vectors"):
        states, blind = [], unseen(model, batch)
        for side in (batch, blind):
            _, cache = model.run_with_cache(side, names=names, positions="last")
            states.append({name: cache[name][:, 0].float().cpu() for name in names})
        for name in names:
            rows[name].append(states[0][name] - states[1][name])
        keys += [sample.key for sample in samples]
    return _tables(rows, keys, "with and without the picture")


def unseen(model: HookedMultimodal, batch: MultimodalBatch) -> MultimodalBatch:
    """The batch without its pictures, for `visual_vectors`.

    Raises:
        InputError: for samples without a picture, and models that take no prompt without one.
    """
    blind = PAI().second(model, batch)
    refuse_forward(model, blind, "Visual vectors are differences from states that prompts have where they")
    return blind


def _tables(rows: dict[str, list[torch.Tensor]], keys: list[str], method: str) -> dict[str, SteeringTable]:
    if not keys:
        raise InputError("The dataset holds no samples.")
    return {
        name: SteeringTable(torch.cat(values), name, "sample", tuple(keys), {"method": method})
        for name, values in rows.items()
    }


def _completions(side: Completions, samples: Sequence[Sample], first: int) -> list[str]:
    """What each sample of a batch goes on with."""
    if isinstance(side, str):
        texts = [side] * len(samples)
    elif callable(side):
        texts = [side(sample) for sample in samples]
    else:
        texts = list(side[first : first + len(samples)])
    if len(texts) != len(samples) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"Completions must be one text per sample that says something, found {texts!r:.200}.")
    return texts


def _states(
    model: HookedMultimodal, batch: MultimodalBatch, texts: Sequence[str], names: list[str], state: str
) -> dict[str, Float[torch.Tensor, "sample d_model"]]:
    """The states of completions; those of one length together, so that none is padded."""
    tokens = [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    result: dict[str, torch.Tensor] = {}
    for length in sorted({len(ids) for ids in tokens}):
        # all samples run, those of other lengths with the first such completion, whose states are not read
        filler = next(ids for ids in tokens if len(ids) == length)
        ids = torch.tensor([row if len(row) == length else filler for row in tokens])
        longer = model.extend(batch, ids.to(batch["input_ids"].device))
        _, cache = model.run_with_cache(longer, names=names, positions=slice(-length, None))
        rows = [sample for sample, row in enumerate(tokens) if len(row) == length]
        for name in names:
            values = cache[name].float().cpu()[rows]
            result.setdefault(name, torch.zeros(len(texts), values.shape[-1]))
            result[name][rows] = values.mean(1) if state == "mean" else values[:, -1]
    return result
