"""Link installed packages, and what these need, into the site-packages of an environment that has none.

    python link_packages.py SITE REQUIREMENT…

Nothing is downloaded or copied: an environment with a part of the packages of another costs a second.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(requirements: list[str]) -> dict[str, Distribution]:
    """The installed distributions, by name, that requirements mean, and those that these require in turn."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found[name] = package = distribution(name)
        for each in map(Requirement, package.requires or ()):
            extras = requirement.extras or {""}
            is_asked_for = each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            if is_asked_for and canonicalize_name(each.name) not in found:
                waiting.append(each)
    return found


def main(site: Path, requirements: list[str]) -> None:
    found = needed(requirements)
    for package in found.values():
        home = Path(str(package.locate_file("")))
        names = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
        for name in names:
            if not (site / name).exists():  # packages of NVIDIA share a folder
                (site / name).symlink_to(home / name)
    print(f"linked: {', '.join(sorted(found))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
