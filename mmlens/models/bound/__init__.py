"""`model.bind(batch)`: a model that TransformerLens's code takes for its own, with the batch's picture in every run."""
