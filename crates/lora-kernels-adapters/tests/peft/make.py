"""Makes the fixtures, with the packages of requirements.txt on the path: in ../fixtures anew, or in the folder that is named."""

import pathlib
import shutil
import sys

from model import write

if len(sys.argv) > 1:
    folder = pathlib.Path(sys.argv[1])
else:
    folder = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
    shutil.rmtree(folder, ignore_errors=True)
write(folder)
