#!/usr/bin/env python3
"""export_data.py FOLDER: the handwritten digits that scikit-learn carries, as plain files.

1,797 pictures of 8 x 8 pixels (0 to 16) with the digit each shows, from the UCI Optical Recognition of Handwritten Digits
set. They are read out of the same wheel that goes into the image, so scikit-learn need not be installed here.

    pixels.csv    one row for each picture: 64 integers
    labels.csv    one row for each picture: the digit
    schema.json   shape, value range and number of rows
    ABOUT.rst     scikit-learn's description, with the sources
"""

import argparse
import gzip
import json
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# As a script this file's own folder is on the path, and the repository is not.
sys.path.insert(0, str(HERE.parent.parent))

from examples.digits.build_image import fetch_wheels  # noqa: E402
from examples.images.wheels import WheelsUnavailable  # noqa: E402

PIXELS = 64
DARKEST = 16


def export(folder: Path) -> int:
    """Writes the files and answers the number of pictures."""
    (wheel,) = [path for path in fetch_wheels() if path.name.startswith("scikit_learn-")]
    with zipfile.ZipFile(wheel) as archive:
        table = gzip.decompress(archive.read("sklearn/datasets/data/digits.csv.gz")).decode()
        about = archive.read("sklearn/datasets/descr/digits.rst")
    rows = [[int(float(value)) for value in line.split(",")] for line in table.splitlines() if line]
    assert all(len(row) == PIXELS + 1 and 0 <= min(row) and max(row[:-1]) <= DARKEST for row in rows)
    schema = {
        "rows": len(rows),
        "pixels": {"file": "pixels.csv", "columns": PIXELS, "minimum": 0, "maximum": DARKEST},
        "labels": {"file": "labels.csv", "columns": 1, "classes": list(range(10))},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pixels.csv").write_text("".join(",".join(map(str, row[:-1])) + "\n" for row in rows))
    (folder / "labels.csv").write_text("".join(f"{row[-1]}\n" for row in rows))
    (folder / "schema.json").write_text(json.dumps(schema, indent=2) + "\n")
    (folder / "ABOUT.rst").write_bytes(about)
    return len(rows)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        rows = export(options.folder)
    except WheelsUnavailable as error:
        print(error, file=sys.stderr)
        return 3
    print(f"{rows} pictures in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
