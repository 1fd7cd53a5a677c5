"""Write the README's figures from the executed lessons: `uv run lrtut run && uv run python images/make_images.py`.

A code cell tagged `readme` gives the figure that it shows, as images/<id of the cell>.png; its alt text goes into the
PNG as its description, by which a test sees whether the picture is still what the lesson draws.
"""

import base64
import html
import io
import re
from pathlib import Path

import nbformat
from PIL import Image
from PIL.PngImagePlugin import PngInfo

HERE = Path(__file__).parent


def main() -> None:
    for path in sorted((HERE.parent / "build" / "lessons").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "readme" not in cell.metadata.get("tags", []):
                continue
            pages = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
            found = re.search(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', " ".join(pages))
            if not found:
                raise SystemExit(f"{path.name}, cell {cell.id}: tagged readme, but shows no figure")
            picture = Image.open(io.BytesIO(base64.b64decode(found[2])))
            words = PngInfo()
            words.add_itxt("Description", html.unescape(found[1]))
            words.add_text("Software", picture.info["Software"])
            picture.save(HERE / f"{cell.id}.png", pnginfo=words, optimize=True)
            print(f"images/{cell.id}.png from {path.name}")


if __name__ == "__main__":
    main()
