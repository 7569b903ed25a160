"""What an edit changed, beside controls."""
