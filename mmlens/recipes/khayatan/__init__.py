"""Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), stage by stage.

*Departs:* vectors and answers are of pictures that are apart (halves of one set); words are whole words; layers of other models
are those as deep. The paper's numbers are of LLaVA-1.5-7B (safety: Qwen2-VL-7B), read in summaries of it.
"""

from mmlens.recipes.khayatan.answers import answers, layers, selection, strengths, types
from mmlens.recipes.khayatan.captions import gender, style
from mmlens.recipes.khayatan.requests import safety
from mmlens.recipes.khayatan.shifts import recovery, shift
from mmlens.recipes.stage import stages

STAGES = stages(shift, recovery, answers, types, selection, style, gender, safety, layers, strengths)
