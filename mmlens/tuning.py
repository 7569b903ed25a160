"""Fine-tunes by LoRA: training an adapter, and having several on one model."""

from mmlens.analysis.tuning.finetune import finetune
from mmlens.analysis.tuning.tune import Tune, with_adapters

__all__ = ["finetune", "Tune", "with_adapters"]  # noqa: RUF022
