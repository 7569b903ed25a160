"""The calls by topic, in the order of the page."""
