"""Fine-tunes by LoRA: making them, and having several on one model."""
