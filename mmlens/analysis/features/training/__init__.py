"""Training sparse dictionaries on states that were collected."""
