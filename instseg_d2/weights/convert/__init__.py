"""Converting checkpoints among file formats and namings, for tools/convert_checkpoint.py."""

from instseg_d2.weights.convert.files import convert_file
from instseg_d2.weights.convert.steps import DTYPES, LIBRARIES, NATIVE, Options

__all__ = ["DTYPES", "LIBRARIES", "NATIVE", "Options", "convert_file"]
