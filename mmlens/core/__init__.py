"""Names, axes, places and errors: what every other folder speaks in. Imports nothing of the package."""
