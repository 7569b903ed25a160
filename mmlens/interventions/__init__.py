"""What can be done to a run: values replaced, ablated, corrupted. Described first, carried out by the model."""
