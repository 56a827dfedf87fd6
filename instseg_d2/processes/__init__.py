"""Several processes and machines: how they are started, find each other, and end together."""

from .layout import OPTIONS, Layout, find_layout
from .start import gpus_needed, in_words, launch

__all__ = ["OPTIONS", "Layout", "find_layout", "gpus_needed", "in_words", "launch"]
