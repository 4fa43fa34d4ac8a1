"""Says what is still missing before a version can be released; the release workflow runs it first.

python scripts/check_release.py v0.1.0
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def problems_of(tag: str, root: Path = ROOT) -> list[str]:
    """Return what is wrong with releasing the working tree under a tag."""
    found: list[str] = []
    source = (root / "offload" / "_version.py").read_text()
    version = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if version is None:
        return ["offload/_version.py says no version"]
    if tag != f"v{version[1]}":
        found.append(f"the tag is {tag}, and offload/_version.py says {version[1]}")
    changes = (root / "CHANGELOG.md").read_text()
    heading = rf"^## \[{re.escape(version[1])}\] - \d{{4}}-\d\d-\d\d$"
    if not re.search(heading, changes, re.MULTILINE):
        found.append(f"CHANGELOG.md has no heading '## [{version[1]}] - YYYY-MM-DD'")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    if "Repository" not in project.get("urls", {}):
        found.append("pyproject.toml has no project.urls with a Repository")
    return found


def main(tag: str) -> int:
    """Print what is wrong; return the exit status."""
    problems = problems_of(tag)
    for problem in problems:
        print(f"not ready: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
