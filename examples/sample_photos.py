"""Photos to try the service with, where there are none of one's own at hand: they come with installed packages.

    python examples/sample_photos.py samples/

Writes ``a.jpg`` and ``b.jpg``, twice one woman; ``team/``, a sub-folder with two photos for each of five people; and
``visitor.jpg``, one of the five, and ``stranger.jpg``, who is none of them. The second photo of a person is the first
one seen worse: mirrored, small, dark and tilted. The photos are not ours to give away, so they stay where they are
written.

The service is at LIKENESS_URL, its access key (scope verify) in LIKENESS_API_KEY or LIKENESS_KEY.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from likeness import Box, Client, LikenessError

NAMES = ("ada", "ben", "cleo", "dora", "emil")
WOMAN, GROUP = ("skimage", "data/astronaut.png"), ("insightface", "data/images/t1.jpg")


def packaged(package: str, file: str) -> Path:
    """A file of an installed package; the package is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"The package {package} is not installed: run this as .venv/bin/python.")
    return Path(next(iter(spec.submodule_search_locations))) / file


def cut_out(photo: Image.Image, box: Box) -> Image.Image:
    """A face with what is around it."""
    x, y, half = box.x + box.width / 2, box.y + box.height / 2, 0.75 * box.height
    return photo.crop((int(x - half), int(y - half), int(x + half), int(y + half)))


def seen_worse(photo: Image.Image) -> Image.Image:
    """Another picture of the same person."""
    small = ImageOps.mirror(photo).resize((3 * photo.width // 4, 3 * photo.height // 4))
    return ImageEnhance.Brightness(small).enhance(0.7).rotate(8, Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder: Path = parser.parse_args().folder
    try:
        group_file = packaged(*GROUP)
        with Client() as client:
            faces = client.detect(group_file).faces
        woman = Image.open(packaged(*WOMAN)).convert("RGB")
        photos = {"a": woman, "b": seen_worse(woman)}
        with Image.open(group_file) as group:
            *people, stranger = (cut_out(group, face.box) for face in faces)
        for name, person in zip(NAMES, people, strict=True):
            photos |= {f"team/{name}/1": person, f"team/{name}/2": seen_worse(person)}
        photos |= {"visitor": ImageOps.mirror(people[0]), "stranger": stranger}
        for name, photo in photos.items():
            path = folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.save(path, quality=90)
    except (LikenessError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(photos)} photos in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
