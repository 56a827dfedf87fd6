"""Layers that both model families use."""
