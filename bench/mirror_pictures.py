"""Draws docs/mirror-benchmark.png and docs/mirror-benchmark-page.png: the six mirrors of the tests, measured.

    pip install -e '.[test]' && apt-get install chromium
    python -m bench.mirror_pictures docs

For people who change what is drawn. It prints the table, takes two minutes, and needs nothing of the outside:
names below localhost are 127.0.0.1 to libcurl.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

import fastxfer
from tests.mirrorbench.six import six_mirrors

SIZE = "1080,2600"
COLOURS = 96


def make_small(path: Path) -> None:
    """Cuts what is empty at the foot of a picture, and leaves it the colours that it needs."""
    with Image.open(path) as read:
        whole = read.convert("RGB")
    empty = Image.new("RGB", whole.size, whole.getpixel((0, whole.height - 1)))
    box = ImageChops.difference(whole, empty).getbbox()
    foot = min(whole.height, (box[3] if box else whole.height) + 24)
    whole.crop((0, 0, whole.width, foot)).quantize(COLOURS).save(path, optimize=True)


def main() -> None:
    """Measures and draws."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="fastxfer-pictures-") as directory:
        Path(directory).chmod(0o755)
        with six_mirrors(Path(directory)) as mirrors:
            named = [url.replace("127.0.0.1", f"{kind}.localhost") for kind, url in mirrors.by_kind.items()]
            report = fastxfer.bench(named, seed=2026)
        page = Path(directory) / "page.html"
        report.save_html(page)
        report.plot(target / "mirror-benchmark.png")
        picture = target / "mirror-benchmark-page.png"
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        subprocess.run(
            [*browser, f"--window-size={SIZE}", f"--screenshot={picture}", page.as_uri()],
            check=True,
            timeout=120,
        )
    for each in (picture, target / "mirror-benchmark.png"):
        make_small(each)
    print(report)


if __name__ == "__main__":
    main()
