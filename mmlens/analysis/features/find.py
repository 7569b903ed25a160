"""Features that raise a word: attribution of its logit to every feature, by one backward pass.

    score_i = sum over rows of (f_i - f_i') s (dm/dy . W_dec_i)         error = sum over rows of (e - e') . dm/dy

m is the word's logit, y what stands at the dictionary's point, f codes, e what the dictionary does not give back, s what it
scales a row by; f' and e' are those of a corrupted batch, or 0. With a corrupted batch scores and error add up to
(y - y') . dm/dy, a patch of the whole point to first order.

Source: Marks et al., "Sparse Feature Circuits", ICLR 2025 (https://arxiv.org/abs/2403.19647), attribution patching of features
with error nodes.
*Departs:* the gradient is that of the model itself, not of one whose other points are replaced by what dictionaries give back.
The sign is that of a contribution: positive raises the word.
"""

from collections.abc import Mapping
from itertools import chain

import torch
from jaxtyping import Float

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.scores import FeatureScores
from mmlens.analysis.neurons.differentiation import SummedRows, differentiable, target_logits
from mmlens.analysis.neurons.token_targets import TokenTargets, token_text, tokens_of, word_targets
from mmlens.analysis.samples.chunks import chunks_of
from mmlens.analysis.samples.sample import Data
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.gradients import require_autograd
from mmlens.core.kinds import Count, Text
from mmlens.core.rules import Positions, as_rule
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.picture_tensors import require_running
from mmlens.inputs.positions import resolve
from mmlens.interventions.pairs import require_same_layout
from mmlens.models.hooked import HookedMultimodal, WritingModel

#: What a splice's points are called behind the point that it writes.
_INPUT, _CODES, _ERROR, _OUTPUT = (f".hook_sae_{kind}" for kind in ("input", "acts_post", "error", "output"))


@checked
@torch.no_grad()
def find_features(
    model: WritingModel,
    data: Data,
    *,
    word: str | int,
    corrupted: MultimodalBatch | None = None,
    positions: Positions = "all",
    prompt: Text | None = None,
    batch_size: Count = 8,
) -> FeatureScores:
    """Score every feature of the attached dictionaries by what it does for a word that the model is about to say.

    Scores of several samples are averaged. Two passes and one backward pass a batch, for all features of all dictionaries;
    one more pass for what is corrupted.

    Args:
        model: the hooked model, inside of `with model.attach(sae)`.
        data: a batch whose last position predicts the word, or a dataset of pictures, which is read batch by batch.
        word: the word, exactly as the tokenizer writes it, or a token's id. Of several tokens each is scored where it is
            predicted, and the scores add up.
        corrupted: of a batch, the same with something else in its picture or words: scores are then of the difference.
        positions: the rows over which is summed (see `mm.positions`).
        prompt, batch_size: of a dataset: what samples without a prompt are asked; samples at a time.

    Returns:
        Scores in logits, with `.top(k)`, `.words()`, `.heatmap()`, `.errors`.

    Raises:
        InputError: before any forward pass, if no dictionary is attached, or for a word that the tokenizer does not know.

    Example:
        >>> with model.attach(sae):  # doctest: +SKIP
        ...     features = mm.find_features(model, batch, word="red")
        ...     features.top(5), features.words(3)
    """
    require_autograd("find_features")
    dictionaries = {at: d for at, d in model.dictionaries.items() if isinstance(d, SparseDictionary)}
    if not dictionaries:
        raise InputError("No sparse dictionary is attached: with model.attach(sae): mm.find_features(...).")
    if corrupted is not None and not isinstance(data, MultimodalBatch):
        raise InputError("corrupted stands beside one batch; find features of a dataset without it, or batch by batch.")
    tokens, rule = tokens_of(model, word), as_rule(positions)
    chunks = chunks_of(model, data, prompt, batch_size)
    first = next(chunks, None)
    if first is None:
        raise InputError("The dataset is empty: there is no sample to score features on.")
    for at in dictionaries:
        resolve(rule, first.batch, model.graph[at], steps=None)
    totals = {at: torch.zeros(len(d), dtype=torch.float64) for at, d in dictionaries.items()}
    errors, count = dict.fromkeys(dictionaries, 0.0), 0
    for chunk in chain([first], chunks):
        for at in dictionaries:
            require_running(chunk.batch, model.graph[at].part, at)
        if corrupted is not None:
            require_same_layout(chunk.batch, corrupted)
        (targets,) = word_targets(model, chunk.batch, [tokens])
        base = None if corrupted is None else _teacher(model, corrupted, tokens)
        for at, (scores, error) in _scores(model, targets, base, dictionaries, rule).items():
            totals[at] += scores.double()
            errors[at] += error
        count += chunk.batch.size
    return FeatureScores(
        scores={at: (total / count).float() for at, total in totals.items()},
        errors={at: error / count for at, error in errors.items()},
        tokens=tokens,
        word=word.strip() if isinstance(word, str) else token_text(model, tokens),
        n_samples=count,
        model=model,
        batch=first.batch,
    )


def _teacher(model: HookedMultimodal, batch: MultimodalBatch, tokens: tuple[int, ...]) -> MultimodalBatch:
    """A batch with all tokens of a word but the last behind it."""
    return model.extend(batch, torch.tensor(tokens[:-1]).expand(batch.size, -1)) if len(tokens) > 1 else batch


def _scores(
    model: HookedMultimodal,
    targets: TokenTargets,
    corrupted: MultimodalBatch | None,
    dictionaries: Mapping[str, SparseDictionary],
    positions: Positions,
) -> dict[str, tuple[Float[torch.Tensor, "feature"], float]]:
    """By point, scores of features and of the error, summed over samples and a word's tokens."""
    kinds = [at + kind for at in dictionaries for kind in (_INPUT, _CODES, _ERROR)]
    _, clean = model.run_with_cache(targets.batch, names=kinds)
    other = None if corrupted is None else model.run_with_cache(corrupted, names=kinds)[1]
    # behind the dictionary where something else acts on its points, else at the point, where gradients are the model's own
    names = {at: at + _OUTPUT if model.spliced[at].active else at for at in dictionaries}
    codes_by_point: dict[str, torch.Tensor] = {}

    def hold(activation: torch.Tensor, hook: object) -> torch.Tensor:
        name = str(getattr(hook, "name", ""))
        codes_by_point[name] = activation if activation.requires_grad else activation.requires_grad_()
        return codes_by_point[name]

    rows = {at: SummedRows(model, targets, at, positions) for at in dictionaries}
    in_language = all(model.graph[at].part == "language" for at in dictionaries)
    groups = targets.rounds() if in_language else [torch.tensor([entry]) for entry in range(len(targets.sample))]
    result = {at: (torch.zeros(len(d)), 0.0) for at, d in dictionaries.items()}
    with differentiable(model), model.hooks([(list(names.values()), hold)]):
        logits = target_logits(model, targets)
        for number, entries in enumerate(groups):
            gradients = torch.autograd.grad(
                logits[entries].sum(),
                [codes_by_point[name] for name in names.values()],
                retain_graph=number < len(groups) - 1,
                allow_unused=True,
            )
            for (at, dictionary), gradient in zip(dictionaries.items(), gradients, strict=True):
                if gradient is None:
                    continue
                wide = dictionary.flat(gradient, dictionary.d_out).to(dictionary.W_dec.dtype)
                here = dictionary.to(wide.device)
                codes, error = clean[at + _CODES], clean[at + _ERROR]
                if other is not None:
                    codes, error = codes - other[at + _CODES], error - other[at + _ERROR]
                product = codes * here.code_gradients(wide, clean[at + _INPUT])
                of_error = (error * wide).sum(-1, keepdim=True)
                scores = rows[at].total(at, product, entries).sum(0)
                total, before = result[at]
                result[at] = (total + scores, before + float(rows[at].total(at, of_error, entries).sum()))
    return result
