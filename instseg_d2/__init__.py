"""What SparseInst and DeepMask/SharpMask share on top of Detectron2.

Importing this package loads neither torch nor Detectron2, so that the installer and the
environment check run before either is there.
"""

__version__ = "0.1.0"
