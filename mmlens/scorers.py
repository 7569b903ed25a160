"""Scores of what a model said: over a run with intervals and paired tests, of texts against pictures and texts; and how answers
are compared."""

from mmlens.analysis.properties.scorers import BertScore, ClipScore, MoverScore, RegressionScore, Scorer
from mmlens.analysis.scores.chair import chair
from mmlens.analysis.scores.cider import caption_tokens, cider_d
from mmlens.analysis.scores.class_words import COLORS, NEGATIVE_SENTIMENTS, PLACES, POSITIVE_SENTIMENTS, SENTIMENTS
from mmlens.analysis.scores.objects import COCO_WORDS, ObjectWords
from mmlens.analysis.scores.pope import pope, says_yes
from mmlens.analysis.scores.safety import REFUSALS, attack_success
from mmlens.analysis.scores.score import Difference, Score, ScoreTable
from mmlens.analysis.scores.similarity import similarity
from mmlens.analysis.scores.vqa import vqa_accuracy, vqa_score
from mmlens.analysis.scores.words import answer_types, word_counts
from mmlens.core.answer_text import normalised, says

__all__ = [  # noqa: RUF022
    "answer_types",
    "attack_success",
    "BertScore",
    "caption_tokens",
    "chair",
    "cider_d",
    "ClipScore",
    "COCO_WORDS",
    "COLORS",
    "Difference",
    "MoverScore",
    "NEGATIVE_SENTIMENTS",
    "normalised",
    "ObjectWords",
    "PLACES",
    "pope",
    "POSITIVE_SENTIMENTS",
    "REFUSALS",
    "RegressionScore",
    "says",
    "says_yes",
    "Score",
    "Scorer",
    "ScoreTable",
    "SENTIMENTS",
    "similarity",
    "vqa_accuracy",
    "vqa_score",
    "word_counts",
]
