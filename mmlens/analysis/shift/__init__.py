"""How a model's concepts move when it is tuned, or when its data changes."""
