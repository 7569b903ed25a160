"""The ledger of claims: every figure of README and docs, what makes it, what it was judged on, and whether it holds."""
