"""Prints what an installation with every extra is made of, as CycloneDX 1.5 (JSON).

Each package with its version and the hashes of its files, from uv.lock. The same lock file gives
the same text, byte for byte: no time of day, and a serial number that is made of the content.

    python scripts/sbom.py > offload.cdx.json
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_COMMAND = (
    *("uv", "export", "--quiet", "--format", "cyclonedx1.5", "--frozen", "--offline"),
    *("--all-extras", "--no-default-groups", "--preview-features", "sbom-export"),
)


def sbom(root: Path = ROOT) -> dict[str, Any]:
    """Return it.

    Raises:
        subprocess.CalledProcessError: uv refuses, as for a lock file that it cannot read.
        ValueError: a package has no hash, or offload/_version.py says no version.
    """
    told = subprocess.run(  # noqa: S603 - a constant
        _COMMAND, cwd=root, check=True, capture_output=True, text=True
    )
    document: dict[str, Any] = json.loads(told.stdout)
    metadata = document["metadata"]
    metadata.pop("timestamp", None)
    # uv has no version for a project whose version is read from a file.
    source = (root / "offload" / "_version.py").read_text()
    version = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if version is None:
        raise ValueError("offload/_version.py says no version")
    metadata["component"]["version"] = version[1]
    for component in document["components"]:
        if not _hashes(component):
            raise ValueError(f"{component['name']} has no hash in uv.lock")
    del document["serialNumber"]
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    return document


def _hashes(component: dict[str, Any]) -> list[str]:
    return [
        each["content"]
        for reference in component.get("externalReferences", ())
        for each in reference.get("hashes", ())
    ]


def main() -> int:
    """Print it; return the exit status."""
    try:
        document = sbom()
    except subprocess.CalledProcessError as error:
        print(f"sbom: uv refused: {error.stderr.strip()}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
