"""What writes files of the repository, and what measures the suite: `python -m tools.<name>`.

Tests import the tools to compare what they would write with what is in the repository; no test
writes a file. The rows and oracles of the suite are importable here.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))
