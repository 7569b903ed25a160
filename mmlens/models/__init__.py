"""Hugging Face vision-language models as hooked models: the only folder that imports transformers."""
