"""Steering: whether a vector of states turns "yes" into "no", and whether it is more than writing the words.

Beside it stand vectors of its norm: the unembedding difference of the two words, and directions with the states' covariance.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity

import mmlens as mm
from mmlens.core.answer_text import is_answer
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, absent
from mmlens.lab.phenomena.questions import by_kind
from mmlens.lab.phenomena.subject import Subject

_YES, _NO = "yes", "no"


def steering(subject: Subject, sizes: Sizes) -> Measured:
    """Measure a coarse vector from "yes" to "no" in the middle of the model and near its end, on other scenes."""
    model = subject.model
    scenes = subject.world.scenes(sizes.scenes, sizes.stream(7))
    cases = by_kind(scenes, [subject.world.questions(scene) for scene in scenes], sizes.scenes, sizes.seed)["presence"]
    samples = [subject.sample(*case) for case in cases]
    texts = subject.replies(samples, tokens=3)
    right = {
        word: [s for s, text in zip(samples, texts, strict=True) if s.answer == word and is_answer(text, word)]
        for word in (_YES, _NO)
    }
    n_cases, n_fresh = sizes.share(0.15), sizes.share(0.12)
    fresh_cases = right[_YES][n_cases:][:n_fresh]
    if len(fresh_cases) < 2 or len(right[_NO]) < 2:
        return Measured([absent("yes becomes no", "questions for presence are not answered rightly")])
    findings = []
    depth = model.cfg.n_layers
    for place, layer in (("middle", depth // 2), ("last but one", depth - 2)):
        at = f"blocks.{layer}.hook_resid_post"
        means = [_states(subject, right[word][:n_cases], at) for word in (_YES, _NO)]
        vector = mm.steering_vector(means[0], means[1], at=at)
        words = mm.steering.unembedding_difference(model, source=_YES, target=_NO, at=at)
        cosine = float(cosine_similarity(vector.direction.float(), words.direction.float(), dim=0))
        report = mm.steering.steering_report(
            model,
            {"states": mm.Steer(vector, alpha=1.0, positions="last")},
            fresh_cases,
            words=(_YES, _NO),
            controls=("words", "covariance"),
            seeds=(sizes.seed, sizes.seed + 1),
            max_new_tokens=3,
            progress=False,
        )
        effect = report.effect("states")
        beside = [
            Control("unembedding difference", report.mean("states, words", effect)),
            Control("covariance", report.mean(f"states, covariance {sizes.seed}", effect)),
        ]
        findings.append(
            Finding(
                f"yes becomes no, {place} layer", report.mean("states", effect), "share of answers", tuple(beside),
                note=f"L{layer}; {report.verdict('states')}; cosine with the unembedding difference {cosine:.2f}",
            )
        )  # fmt: skip
    return Measured(findings)


@torch.no_grad()
def _states(subject: Subject, samples: list[mm.Sample], at: str) -> torch.Tensor:
    """States at the last position, `[sample d_model]`."""
    states = [
        subject.model.run_with_cache(batch, names=at, positions="last")[1][at].flatten(0, 1)
        for _, batch in subject.batches(samples)
    ]
    return torch.cat(states)
