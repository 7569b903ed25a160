"""Concepts in words: the tokens that a direction writes, through the final norm or raw."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.models.hooked import HookedMultimodal, WritingModel

#: Says whether a decoded token may stand for a concept.
Keep = Callable[[str], bool]
_CANDIDATES = 200


def is_content_word(word: str) -> bool:
    """Whether a token is a word of at least three letters that is no stop word.

    Example:
        >>> [word for word in ("dog", "the", "Ġ", "12", "of", "##ing") if is_content_word(word)]
        ['dog']
    """
    return len(word) >= 3 and word.isalpha() and word.lower() not in ENGLISH_STOP_WORDS


@checked
@torch.no_grad()
def concept_words(
    model: WritingModel,
    bank: ConceptBank,
    *,
    k: Count = 15,
    through_norm: bool = True,
    candidates: Count = _CANDIDATES,
    keep: Keep | None = None,
) -> list[list[str]]:
    """The words that each concept writes: the highest of `unembed(norm(u_k))`, those that are words.

    Args:
        model: the hooked model.
        bank: of states of its language model's stream.
        k: words per concept, at most.
        through_norm: send the vector through the model's final norm first; False gives `W_U u_k`, as published.
        candidates: how many tokens to look at for these words.
        keep: which decoded tokens count; by default words of three letters and more that are no stop words.

    Returns:
        Per concept its words in lower case, best first, each once; fewer than `k` where too few candidates are words.

    Raises:
        InputError: if the concepts are no directions of the stream that the unembedding reads.

    Example:
        >>> import mmlens as mm
        >>> store = mm.collect(model, mm.lab.scenes(16), at="blocks.4.hook_resid_post", token=mm.lab.NOUNS, progress=False)
        >>> bank = mm.extract_concepts(store, 3, method="kmeans")
        >>> len(concept_words(model, bank, k=4))
        3

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 3.3.
    *Departs:* the paper unembeds the concept as it is, which is right for states after the final norm alone; the norm's gain
    weighs the directions, so it is applied by default. Words are told by their letters, not looked up in a list of English.
    """
    return direction_words(
        model, bank.vectors, at=bank.at, k=k, through_norm=through_norm, candidates=candidates, keep=keep
    )


@torch.no_grad()
def direction_words(
    model: WritingModel,
    directions: Float[torch.Tensor, "concept d_model"],
    *,
    at: str,
    k: int = 15,
    through_norm: bool = True,
    candidates: int = _CANDIDATES,
    keep: Keep | None = None,
) -> list[list[str]]:
    """The words that directions of the stream write; see `concept_words`.

    Args:
        model: the hooked model.
        directions: the directions.
        at: the point that they belong to.
        k, through_norm, candidates, keep: as for `concept_words`.
    """
    _require_stream(model, at, directions.shape[-1])
    if k < 1:
        raise InputError(f"k={k} must be at least 1.")
    keep = is_content_word if keep is None else keep
    weight = next(model.unembed.parameters())
    vectors = directions.to(weight.device, weight.dtype)
    # after the final norm itself the states are already what the unembedding reads
    norm_output = model.ln_final(vectors[None])[0] if through_norm and at != "ln_final.hook_out" else vectors
    best = model.unembed(norm_output).topk(min(candidates, len(weight)), dim=-1).indices
    return [_kept(model, row.tolist(), k, keep) for row in best]


def _kept(model: HookedMultimodal, tokens: Sequence[int], k: int, keep: Keep) -> list[str]:
    result: dict[str, None] = {}
    for token in tokens:
        word = model.to_string(token).strip()
        if keep(word):
            result.setdefault(word.lower())
            if len(result) == k:
                break
    return list(result)


def _require_stream(model: HookedMultimodal, at: str, width: int) -> None:
    """Refuse points whose states the unembedding could not read."""
    node = model.graph[at]
    if node.part != "language" or node.width != width or width != model.cfg.d_model or "head" in node.axes.split():
        raise InputError(
            f"Directions at {at} [{node.axes}, {width} wide] write no words: the unembedding reads the language model's stream "
            f"(width {model.cfg.d_model}), such as blocks.*.hook_resid_post."
        )
