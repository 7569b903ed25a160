"""Training, measuring and fine-tuning the lab model; nothing here is needed to load it."""
