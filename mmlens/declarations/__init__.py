"""What a model family declares: types alone, nothing runs. Knows neither torch modules by name nor transformers."""
