"""Finds faces of any size: a first look at the whole photo from coarse to fine, a second look at what is uncertain.

YuNet sees faces best when they are some 30 to 300 pixels wide in its input. Of faces 20 pixels wide 91 % reach a
score of 0.6, of those 32 pixels wide all; yet 99 % of the 20-pixel ones reach 0.1 (``tests/benchmarks/detection_sizes``
on LFW). So the first look only proposes, and what it saw too small or too faintly is cut out, brought to a good size,
and decided by a second look. A face that fills the frame is seen whole in a small, padded copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.recognition.proposals import Proposals, covered, join, propose, repeated, suppress, view_matrix
from service.recognition.resample import warp
from service.recognition.types import Detector, Face, Image

# The network halves its input five times.
_STRIDE = 32
# Windows of the second look that are run in one batch; bounds the memory.
_WINDOWS_AT_ONCE = 16
# The second look is repeated at most this often until its window shows the face whole and at a good size: further
# from the window's border than _EDGE pixels, and within the factor _GOOD_SIZE of the width it was to have.
_MOST_LOOKS = 4
_EDGE = 16.0
_GOOD_SIZE = 1.5
# A box nearer than this share of its longer side to the inner border of a tile may be cut by it.
_CUT = 0.25
# Faces within this share of the smallest that is asked for may turn out not to be too small.
_NEARLY = 0.9


@dataclass(frozen=True)
class DetectionOptions:
    """When a region is a face, and how it is looked for. Lengths in pixels of the network's input.

    Attributes:
        min_score: detection score from which a region counts as a face.
        candidate_score: score from which the first look's proposals get a second look.
        max_overlap: intersection over union above which two boxes are one face.
        max_contained: share of the smaller box inside the larger above which they are one face.
        smallest: shorter side, in pixels of the photo, of the smallest face that is asked for. Matters only where the
            photo was decoded in a coarser level.
        smallest_clear: face width from which one look is enough, in full resolution.
        smallest_clear_shrunk: the same in a shrunk view, where a second look has more to see.
        largest: face width beyond which a view is not trusted; a coarser one sees such a face better.
        overview: longest side of the shrunk view of a large photo.
        frame: longest side of the photo in the small, padded view; half the side of the square it lies in.
        tile, tile_overlap: full resolution is looked at in squares of this side that overlap by this much.
        window, window_face: side of the second look's input, and how wide the face is made in it.
    """

    min_score: float = 0.6
    candidate_score: float = 0.1
    max_overlap: float = 0.3
    max_contained: float = 0.7
    smallest: float = 0.0
    smallest_clear: float = 28.0
    smallest_clear_shrunk: float = 64.0
    largest: float = 320.0
    overview: int = 640
    frame: int = 160
    tile: int = 1280
    tile_overlap: int = 160
    window: int = 192
    window_face: float = 72.0


def detect(image: Image, network: Detector, options: DetectionOptions) -> list[Face]:
    """All faces of a photo, largest box first.

    A photo that was decoded in a coarser level is seen in that; faces that are small in it are looked at again in the
    whole photo, and where it shows none that is asked for, all of the whole photo is looked at.
    """
    faces = _detect(image, network, options) if image.finest == 0 else _detect_coarse(image, network, options)
    listed = [Face(b, p, float(s)) for b, p, s in zip(faces.boxes, faces.landmarks, faces.scores, strict=True)]
    return sorted(listed, key=lambda face: face.area, reverse=True)


def _detect_coarse(image: Image, network: Detector, options: DetectionOptions) -> Proposals:
    """Faces in pixels of the whole photo, which is decoded only where that is needed."""
    side = 2**image.finest
    faces = _detect(Image(image.level(image.finest)), network, options).place(1 / side, (0, 0))
    sizes = (faces.boxes[:, 2:] - faces.boxes[:, :2]).min(axis=1)
    asked = sizes >= _NEARLY * options.smallest
    if not asked.any():
        # Whoever sent a face that is too small is to be told so, and not that there is none.
        return _detect(image.whole(), network, options)
    small = asked & (faces.widths < side * options.window_face)
    if not small.any():
        return faces
    closer = _second_look(image.whole(), network, options, faces.take(small))
    return suppress(join([faces.take(~small), closer]), options.max_overlap, options.max_contained)


def _detect(image: Image, network: Detector, options: DetectionOptions) -> Proposals:
    """Faces, none suppressed by another."""
    found = _first_look(image, network, options)
    clear = found.take(found.clear)
    unsure = found.take(~found.clear)
    # What lies within a face is a part of it.
    unsure = unsure.take(~covered(unsure, clear, options.max_contained))
    confirmed = _second_look(image, network, options, unsure)
    # What was clear at first sight stays as it was seen.
    faces = join([clear, confirmed.take(~repeated(confirmed, clear, options.max_overlap))])
    if not len(faces):
        frame = _frame_view(image, network, options, options.min_score)
        faces = frame.take(frame.scores >= options.min_score)
    return suppress(faces, options.max_overlap, options.max_contained)


def _first_look(image: Image, network: Detector, options: DetectionOptions) -> Proposals:
    """Proposals of all views, one per face and not yet sure."""
    longest = max(image.width, image.height)
    parts = []
    if longest > options.largest:
        parts.append(_frame_view(image, network, options, options.candidate_score))
    if longest > options.overview:
        scale = options.overview / longest
        canvas = _canvas(
            warp(image, view_matrix(scale, (0, 0)), round(image.width * scale), round(image.height * scale))
        )
        parts.append(
            _judge(propose(network, canvas, options.candidate_score)[0], options, shrunk=True).place(scale, (0, 0))
        )
    parts += _tiles(image, network, options)
    return suppress(join(parts), options.max_overlap)


def _frame_view(image: Image, network: Detector, options: DetectionOptions, min_score: float) -> Proposals:
    """The whole photo, small, in the middle of a black square: a face that fills the frame has room around it."""
    scale = options.frame / max(image.width, image.height)
    side = 2 * options.frame
    corner = np.array([image.width, image.height]) / 2 - side / 2 / scale
    view = warp(image, view_matrix(scale, corner), side, side)
    return _judge(propose(network, view[None], min_score)[0], options, shrunk=True).place(scale, corner)


def _tiles(image: Image, network: Detector, options: DetectionOptions) -> Iterator[Proposals]:
    """Full resolution, one tile at a time."""
    for top, height in _spans(image.height, options.tile, options.tile_overlap):
        for left, width in _spans(image.width, options.tile, options.tile_overlap):
            canvas = _canvas(image.pixels[top : top + height, left : left + width])
            found = _judge(propose(network, canvas, options.candidate_score)[0], options, shrunk=False)
            x1, y1, x2, y2 = found.boxes.T
            margin = _CUT * np.maximum(x2 - x1, y2 - y1)
            cut = (x1 < margin) & (left > 0) | (y1 < margin) & (top > 0)
            cut |= (x2 > width - margin) & (left + width < image.width)
            cut |= (y2 > height - margin) & (top + height < image.height)
            # The second look sees it whole, wherever the tiles end.
            whole = Proposals(found.boxes, found.landmarks, found.scores, found.clear & ~cut)
            yield whole.place(1.0, (left, top))


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """(start, length) of equal, overlapping pieces that cover ``length``, none longer than ``tile``."""
    if length <= tile:
        return [(0, length)]
    count = int(np.ceil((length - overlap) / (tile - overlap)))
    starts = np.linspace(0, length - tile, count).round().astype(int)
    return [(int(start), tile) for start in starts]


def _judge(found: Proposals, options: DetectionOptions, shrunk: bool) -> Proposals:
    """Mark what this view saw well enough; drop what is too large for it."""
    smallest = options.smallest_clear_shrunk if shrunk else options.smallest_clear
    clear = (found.scores >= options.min_score) & (found.widths >= smallest)
    judged = Proposals(found.boxes, found.landmarks, found.scores, clear)
    return judged.take(found.widths <= options.largest)


def _second_look(image: Image, network: Detector, options: DetectionOptions, proposals: Proposals) -> Proposals:
    """Look again at each proposal, cut out so that the face is ``window_face`` wide; keep what is a face.

    A proposal may be a part of a face, so what is found may be cut by the window or be too large in it; then the
    window is laid anew around what was found.
    """
    settled = []
    for _ in range(_MOST_LOOKS):
        found, well_seen = _look_closely(image, network, options, proposals)
        settled.append(found.take(well_seen))
        proposals = found.take(~well_seen)
        if not len(proposals):
            break
    return join([*settled, proposals])


def _look_closely(
    image: Image, network: Detector, options: DetectionOptions, proposals: Proposals
) -> tuple[Proposals, NDArray[np.bool_]]:
    """What is a face, in photo pixels, and whether its window showed it whole and at a good size."""
    found, well_seen = [], []
    side = options.window
    for start in range(0, len(proposals), _WINDOWS_AT_ONCE):
        some = proposals.take(np.arange(start, min(start + _WINDOWS_AT_ONCE, len(proposals))))
        scales = (options.window_face / np.maximum(some.widths, 1.0)).astype(np.float64)
        corners = (some.boxes[:, :2] + some.boxes[:, 2:]) / 2 - side / 2 / scales[:, None]
        windows = [warp(image, view_matrix(s, c), side, side) for s, c in zip(scales, corners, strict=True)]
        looks = propose(network, np.stack(windows), options.min_score)
        for look, scale, corner in zip(looks, scales, corners, strict=True):
            centres = (look.boxes[:, :2] + look.boxes[:, 2:]) / 2
            # Neighbours seen in the same window have their own proposal; a proposal that was cut is off centre.
            mine = look.take(np.abs(centres - side / 2).max(axis=1, initial=0) < 0.75 * options.window_face)
            best = mine.take(np.argsort(-mine.scores)[:1])
            whole = (best.boxes.min(axis=1) > _EDGE) & (best.boxes.max(axis=1) < side - _EDGE)
            good_size = np.abs(np.log(best.widths / options.window_face)) < np.log(_GOOD_SIZE)
            found.append(best.place(float(scale), corner))
            well_seen.append(whole & good_size)
    return join(found), np.concatenate([np.zeros(0, bool), *well_seen])


def _canvas(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(1, h', w', 3): the pixels, black to the right and below up to the next multiple of the stride."""
    height, width = (-(-side // _STRIDE) * _STRIDE for side in pixels.shape[:2])
    canvas = np.zeros((1, height, width, 3), np.uint8)
    canvas[0, : pixels.shape[0], : pixels.shape[1]] = pixels
    return canvas
