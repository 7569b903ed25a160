"""One file per model family; importing this package registers them all."""

from mmlens.models.families import instructblip, llava, qwen2_vl

__all__ = ["instructblip", "llava", "qwen2_vl"]
