"""Converting checkpoints among file formats and namings, for tools/convert_checkpoint.py."""

from instseg_d2.weights.convert.files import SUFFIXES, convert_file
from instseg_d2.weights.convert.namings import NAMINGS, Naming
from instseg_d2.weights.convert.steps import DTYPES, LIBRARIES, NATIVE, Conversion, Options, convert
