"""Check that the sdist holds every tracked file and the wheel every file of the package, data files included."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def main(dist: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.split("\0") if name and Path(name).exists()}
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/rankdet/")}
    strays = {name for name in in_wheel if not name.split("/")[0].endswith(".dist-info")} - package
    for name, problem in ((sdist, tracked - in_sdist), (wheel, package - in_wheel), (f"{wheel}, untracked", strays)):
        if problem:
            sys.exit(f"{name}: {', '.join(sorted(problem))}")
    print(f"{sdist.name}: {len(in_sdist)} files; {wheel.name}: {len(in_wheel)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
