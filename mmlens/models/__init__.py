"""The hooked model: its runs, its weights and edits of them, its adapters, and the checks of its points."""
