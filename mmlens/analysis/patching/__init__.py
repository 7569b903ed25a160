"""Activation patching: put activations of one run into another and see how the answer moves."""
