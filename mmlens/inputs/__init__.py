"""From what a user has to a batch, and from the rows of a batch to pixels and back."""
