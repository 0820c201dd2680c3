"""Print the set-up command in README.md that contains a word."""

import re
import sys
from pathlib import Path

readme = Path(__file__).resolve().parents[1] / "README.md"
blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(encoding="utf-8"), re.S)
lines = [line for block in blocks for line in block.splitlines()]
matches = [x for x in lines if x.startswith("python3 -m venv") and sys.argv[1] in x]
if len(matches) != 1:
    sys.exit(
        f"README.md has {len(matches)} set-up commands with {sys.argv[1]!r}; "
        "expected one"
    )
print(matches[0])
