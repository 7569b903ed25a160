"""Circuits: which edges between heads, MLPs, the projector and the embeddings carry an answer, across towers."""
