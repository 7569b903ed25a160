"""Exercises of the course: what is asked, the truth that an answer is held against, and what a wrong answer is told."""
