"""Induction: whether random tokens are easier the second time, and which head looks at what followed them the first time.

Source: Olsson et al., "In-context Learning and Induction Heads", 2022 (https://arxiv.org/abs/2209.11895): prefix matching on
repeated random tokens.
"""

from __future__ import annotations

import numpy as np
import torch

from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange
from mmlens.lab.phenomena.subject import Subject

_LENGTH = 24


@torch.no_grad()
def induction(subject: Subject, sizes: Sizes) -> Measured:
    """Measure nll at the first and the second time, beside a second half of other tokens; and the best head's pattern.

    The head is chosen on half of the sequences and measured on the others.
    """
    model, count = subject.model, sizes.share(0.16, least=8)
    generator = torch.Generator().manual_seed(sizes.stream(4))
    vocabulary = torch.tensor(
        sorted(
            set(model.tokenizer.get_vocab().values()) - set(model.tokenizer.all_special_ids) - _placeholders(subject)
        )
    )
    tokens = vocabulary[torch.randint(len(vocabulary), (count, 2 * _LENGTH), generator=generator)]
    bos = model.tokenizer.bos_token_id
    start = torch.full((count, 0 if bos is None else 1), 0 if bos is None else bos)
    once, other = tokens.split(_LENGTH, 1)
    nll, scores = {}, {}
    for name, second in (("again", once), ("others", other)):
        ids = torch.cat([start, once, second], 1)
        batch = model.batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        logits, cache = model.run_with_cache(batch, names="blocks.*.attn.hook_pattern")
        log_p = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        shift = start.shape[1]
        # the first token of each half is told by nothing
        nll[name] = -log_p[:, shift + _LENGTH : shift + 2 * _LENGTH - 1].mean(1).numpy()
        nll["once"] = -log_p[:, shift : shift + _LENGTH - 1].mean(1).numpy()
        patterns = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.cfg.n_layers)], 1)
        # from a token of the second half to the one behind its first occurrence
        queries = torch.arange(shift + _LENGTH, shift + 2 * _LENGTH)
        scores[name] = patterns[..., queries, queries - _LENGTH + 1].mean(-1).flatten(1).numpy()
    half = np.arange(count) % 2 == 0
    best = int(scores["again"][half].mean(0).argmax())
    heads = model.cfg.n_heads
    findings = [
        Finding("nll of random tokens, the first time", mean_interval(nll["once"]), "nats"),
        Finding(
            "nll, first minus second time", mean_interval(nll["once"] - nll["again"]), "nats",
            (Control("a second half of other tokens", mean_interval(nll["once"] - nll["others"])),),
            TargetRange(1.0), subject.world.trained_in.get("induction", ""),
        ),
        Finding(
            "attention to what followed the first time, best head", mean_interval(scores["again"][~half, best]), "attention",
            (Control("a second half of other tokens", mean_interval(scores["others"][~half, best])),),
            TargetRange(0.3, source="Olsson et al."), f"L{best // heads}.h{best % heads}",
        ),
    ]  # fmt: skip
    return Measured(findings)


def _placeholders(subject: Subject) -> set[int]:
    """Ids that stand for a picture, and cannot be text."""
    token = subject.model.tokenizer.convert_tokens_to_ids("<image>")
    return set() if token is None else {token}
