"""Methods against hallucination side by side: what they mend, what they cost, and what random changes as strong do."""
