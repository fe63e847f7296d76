"""Check that a tag names this version and that CHANGELOG has a dated entry: python wheels/check_tag.py v1.2.3"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problem(tag: str, root: Path = ROOT) -> str:
    """Why ``tag`` can't be released, or "" if it can."""
    version = re.search(r'__version__ = "(.+)"', (root / "fastmnv2" / "_version.py").read_text())
    if not version or tag != f"v{version[1]}":
        return f"tag: expected v{version[1] if version else '?'}, the version in fastmnv2/_version.py, got {tag}"
    if not re.search(rf"^## {re.escape(version[1])} \(\d{{4}}-\d\d-\d\d\)$", (root / "CHANGELOG.md").read_text(), re.M):
        return f"CHANGELOG.md has no dated entry for {version[1]}"
    return ""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(problem(sys.argv[1]) or None)
