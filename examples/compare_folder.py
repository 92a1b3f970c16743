"""Which photos of a folder show the same person? Every face of every photo is compared with every other.

    python examples/compare_folder.py photos/ --fmr 1e-5

Prints each pair that matches, the most similar first, and then the groups that the pairs make. Each photo is sent
once, a few at a time; the comparisons are done here. A folder of n photos has n (n - 1) / 2 pairs, so some match by
chance: ask for a lower rate the more there are.

The service is at LIKENESS_URL, its access key (scopes embed and verify) in LIKENESS_API_KEY.
"""

import argparse
import asyncio
import sys
from itertools import combinations
from operator import mul
from pathlib import Path

from likeness import AsyncClient, Face, LikenessError, UnusablePhoto
from likeness.folders import ENDINGS

AT_ONCE = 8


async def embeddings_of(client: AsyncClient, photos: list[Path]) -> tuple[list[tuple[str, tuple[float, ...]]], str]:
    """Name and embedding of each face, and the contract they share."""
    places = asyncio.Semaphore(AT_ONCE)
    contract = (await client.info()).embedding_contract

    async def of(photo: Path) -> list[tuple[str, tuple[float, ...]]]:
        async with places:
            try:
                faces = (await client.embed(photo, faces="all")).faces
            except UnusablePhoto as error:
                print(f"{photo.name}: {error.message}", file=sys.stderr)
                return []
        return [(name_of(photo, face, len(faces)), face.embedding) for face in faces]

    found = await asyncio.gather(*(of(photo) for photo in photos))
    return [face for faces in found for face in faces], contract


def name_of(photo: Path, face: Face, faces: int) -> str:
    """The photo's name, with the place of the face where it shows several."""
    return photo.name if faces == 1 else f"{photo.name} at {face.box.x:.0f},{face.box.y:.0f}"


async def threshold_of(client: AsyncClient, embedding: tuple[float, ...], contract: str, fmr: float) -> float:
    """The similarity from which on two faces match."""
    answer = await client.compare(embedding, embedding, embedding_contract=contract, fmr=fmr)
    return answer.operating_point.threshold


def groups_of(pairs: list[tuple[float, str, str]]) -> list[set[str]]:
    """Faces that are connected by pairs."""
    groups: list[set[str]] = []
    for _, a, b in pairs:
        touched = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in touched]
        groups.append({a, b}.union(*touched))
    return groups


async def run(folder: Path, fmr: float) -> int:
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    async with AsyncClient() as client:
        faces, contract = await embeddings_of(client, photos)
        if not faces:
            print(f"There is no face in the {len(photos)} photos of {folder}.", file=sys.stderr)
            return 1
        threshold = await threshold_of(client, faces[0][1], contract, fmr)
    pairs = [
        (similarity, a, b)
        for (a, one), (b, other) in combinations(faces, 2)
        if (similarity := sum(map(mul, one, other))) >= threshold
    ]
    pairs.sort(reverse=True)
    for similarity, a, b in pairs:
        print(f"{similarity:.4f}  {a}  {b}")
    groups = groups_of(pairs)
    print(f"{len(photos)} photos, {len(faces)} faces, {len(pairs)} pairs from {threshold:.4f} on, {len(groups)} groups")
    for group in groups:
        print("  " + ", ".join(sorted(group)))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--fmr", type=float, default=1e-4, help="false match rate of one pair (default: 1e-4)")
    args = parser.parse_args()
    try:
        return asyncio.run(run(args.folder, args.fmr))
    except (LikenessError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
