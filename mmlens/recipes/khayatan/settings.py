"""What decides the study of Khayatan et al., 2025 (https://arxiv.org/abs/2501.03012)."""

from dataclasses import dataclass
from typing import Literal

from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Positive, Several, Text
from mmlens.recipes.stage import Layer


@checked
@dataclass(frozen=True)
class KhayatanSettings:
    """What decides the study; layers are of 32, and those of other models lie as deep.

    Attributes:
        prompt: what is asked for a caption; the samples' own if None.
        alpha, alphas: strength of vectors; those of the sweep.
        answer_layer, caption_layer, request_layer, layers: where answers, captions and requests are steered; those of the sweep.
            Which layer the paper steers requests at is not known; 15 is that of the same authors' next work.
        request_positions: where requests are steered: everywhere, as published, writes a refusal's first word again and again in
            the lab model; at the prompt's end it does not.
        vector_questions, questions, sweep_questions: questions that vectors are made of, that are answered, and in sweeps.
        selection_questions, chosen_vectors: questions on which vectors between concepts are chosen, and how many are.
        vector_captions, captions: the same of pictures.
        requests: harmful ones, and as many harmless ones.
        answer_tokens, caption_tokens, request_tokens: upper bounds on what is written.
        n_concepts: of shifts and fine vectors.
        tune_samples, steps, tune_batch, rank, rate: of the fine-tunes.
        shift_captions: pictures that both models caption.
        batch_size: samples at a time.
    """

    prompt: Text | None = None
    alpha: float = 1.0
    alphas: Several[float] = (0.25, 0.5, 1.0, 2.0)
    answer_layer: Layer = 31
    caption_layer: Layer = 19
    request_layer: Layer = 15
    request_positions: Literal["last", "all"] = "last"
    layers: Several[Layer] = (31, 25, 19, 11, 3)
    vector_questions: Count = 400
    questions: Count = 400
    sweep_questions: Count = 120
    selection_questions: Count = 60
    chosen_vectors: Count = 5
    vector_captions: Count = 200
    captions: Count = 200
    requests: Count = 80
    answer_tokens: Count = 5
    caption_tokens: Count = 25
    request_tokens: Count = 12
    n_concepts: Count = 5
    tune_samples: Count = 1000
    steps: Count = 120
    tune_batch: Count = 16
    rank: Count = 4
    rate: Positive = 4e-3
    shift_captions: Count = 300
    batch_size: Count = 16

    @classmethod
    def published(cls) -> "KhayatanSettings":
        """The paper's, as its code and summaries tell; how its fine-tunes were trained is in neither."""
        return cls(
            prompt="Describe the image in few words.",
            layers=(31, 29, 27, 25, 23, 19, 15, 11, 7, 3, 1),
            vector_questions=5000,
            questions=5000,
            sweep_questions=5000,
            selection_questions=5000,
            vector_captions=3000,
            captions=5000,
            requests=100,
            request_tokens=100,
            request_positions="all",
            n_concepts=20,
            tune_samples=5000,
            steps=500,
            rank=8,
            rate=2e-4,
            shift_captions=5000,
        )
