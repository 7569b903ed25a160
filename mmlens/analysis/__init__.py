"""Methods from the literature as functions on hooked models; results are small frozen values."""
