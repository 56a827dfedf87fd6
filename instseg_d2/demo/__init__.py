"""Predictions for people to look at: what ``tools/demo.py`` does."""
