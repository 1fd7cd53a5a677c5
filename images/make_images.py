"""Write the README's figures from the executed lessons: `uv run lrtut run && uv run python images/make_images.py`.

A code cell tagged `readme` gives the figure that it shows, as images/<id of the cell>.png.
"""

import base64
import re
from pathlib import Path

import nbformat

HERE = Path(__file__).parent


def main() -> None:
    for path in sorted((HERE.parent / "build" / "course").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "readme" not in cell.metadata.get("tags", []):
                continue
            pages = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
            found = re.search(r'src="data:image/png;base64,([^"]+)"', " ".join(pages))
            if not found:
                raise SystemExit(f"{path.name}, cell {cell.id}: tagged readme, but shows no figure")
            (HERE / f"{cell.id}.png").write_bytes(base64.b64decode(found[1]))
            print(f"images/{cell.id}.png from {path.name}")


if __name__ == "__main__":
    main()
