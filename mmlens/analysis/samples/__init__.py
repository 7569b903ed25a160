"""What a dataset is: its samples, and how runs go through them."""
