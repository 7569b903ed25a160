"""Contrastive decoding: scores of the prompt, contrasted with those of a prompt that shows less of the picture."""
