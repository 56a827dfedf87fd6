"""Weights files: reading, recognising, matching with a model, converting, writing."""
