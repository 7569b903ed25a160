"""Pictures of results. Takes results, never models."""
