"""The list of methods and variants is that of the tests of the targets."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "targets"))
