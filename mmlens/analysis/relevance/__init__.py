"""Maps of relevance: which parts of a picture an answer depends on, by attention with and without gradients."""
