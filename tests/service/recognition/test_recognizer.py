"""The pipeline with the real networks: embeddings of real faces."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import ImageTooLarge
from service.recognition.align import align
from service.recognition.recognizer import RecognitionOptions, Recognizer
from service.recognition.types import Face, Image
from service.runtime.bundle import Bundle

Pixels = NDArray[np.uint8]


class Counting:
    """An embedder that notes the size of each batch it passes on."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._embedder = recognizer.embedder
        self.batches: list[int] = []

    def __call__(self, crops: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.batches.append(len(crops))
        return self._embedder(crops)


def with_options(recognizer: Recognizer, bundle: Bundle, options: RecognitionOptions) -> tuple[Recognizer, Counting]:
    alignment, embedder = bundle.card.contract.alignment, Counting(recognizer)
    return Recognizer(recognizer.detector, embedder, alignment.template, alignment.size, options), embedder


def enlarged(image: Image, times: int) -> Image:
    return Image(
        np.asarray(cv2.resize(image.pixels, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC), np.uint8)
    )


@pytest.fixture(scope="module")
def everyone(group: Image, group_faces: list[Face], portrait: Image, portrait_face: Face) -> list[tuple[Image, Face]]:
    """Seven faces of two photos, mixed."""
    people = [(group, face) for face in group_faces]
    return [*people[:3], (portrait, portrait_face), *people[3:]]


def test_embeddings_have_unit_length_and_their_own_face(
    recognizer: Recognizer, bundle: Bundle, everyone: list[tuple[Image, Face]]
) -> None:
    embedded = recognizer.embed(everyone)
    assert len(embedded) == 7
    for found, (_, face) in zip(embedded, everyone, strict=True):
        assert found.face is face
        assert found.embedding.dtype == np.float32
        assert found.embedding.shape == (bundle.card.contract.dimension,)
        assert np.linalg.norm(found.embedding.astype(np.float64)) == pytest.approx(1, abs=1e-5)
        assert type(found.feature_norm) is float
        assert found.feature_norm > 0


def test_a_batch_gives_what_one_by_one_gives(recognizer: Recognizer, everyone: list[tuple[Image, Face]]) -> None:
    for together, pair in zip(recognizer.embed(everyone), everyone, strict=True):
        [alone] = recognizer.embed([pair])
        np.testing.assert_allclose(together.embedding, alone.embedding, atol=1e-5)
        assert together.feature_norm == pytest.approx(alone.feature_norm, rel=1e-4)


@pytest.mark.parametrize(("max_batch", "batches"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (16, [7])])
def test_no_batch_is_larger_than_allowed(
    recognizer: Recognizer,
    bundle: Bundle,
    everyone: list[tuple[Image, Face]],
    max_batch: int,
    batches: list[int],
) -> None:
    limited, embedder = with_options(recognizer, bundle, RecognitionOptions(max_batch=max_batch))
    found = limited.embed(everyone)
    assert embedder.batches == batches
    for one, other in zip(found, recognizer.embed(everyone), strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)


def test_no_faces_give_no_embeddings_and_no_call(recognizer: Recognizer, bundle: Bundle) -> None:
    limited, embedder = with_options(recognizer, bundle, RecognitionOptions())
    assert limited.embed([]) == []
    assert embedder.batches == []


def test_different_people_are_far_apart(recognizer: Recognizer, everyone: list[tuple[Image, Face]]) -> None:
    vectors = np.stack([found.embedding for found in recognizer.embed(everyone)])
    assert (vectors @ vectors.T)[~np.eye(7, dtype=bool)].max() < 0.4


def test_people_of_lfw_are_told_apart(recognizer: Recognizer, lfw: Path) -> None:
    people = sorted(path.parent for path in lfw.glob("images/*/*_0004.jpg"))[::40]
    assert len(people) >= 10

    def vectors(photo: int) -> NDArray[np.float32]:
        images = [recognizer.decode((p / f"{p.name}_{photo:04d}.jpg").read_bytes()) for p in people]
        found = recognizer.embed([(image, recognizer.detect(image)[0]) for image in images])
        return np.stack([one.embedding for one in found])

    similarity = vectors(1) @ vectors(4).T
    same = np.eye(len(people), dtype=bool)
    assert np.median(similarity[same]) > 0.5
    assert np.quantile(similarity[~same], 0.95) < 0.36
    assert np.mean(similarity.argmax(axis=1) == np.arange(len(people))) > 0.9


def test_the_crop_is_the_aligned_face(
    recognizer: Recognizer, bundle: Bundle, portrait: Image, portrait_face: Face
) -> None:
    crop = recognizer.crop(portrait, portrait_face)
    assert (crop.dtype, crop.shape) == (np.uint8, (112, 112, 3))
    template = bundle.card.contract.alignment.template
    np.testing.assert_array_equal(crop, align(portrait, portrait_face.landmarks, template, 112))
    embeddings, norms = recognizer.embed_crops([crop])
    [found] = recognizer.embed([(portrait, portrait_face)])
    np.testing.assert_array_equal(embeddings[0], found.embedding)
    assert found.feature_norm == norms[0]


def test_a_large_photo_gives_the_embedding_of_the_small_one(
    recognizer: Recognizer, everyone: list[tuple[Image, Face]]
) -> None:
    large = {id(image): enlarged(image, 6) for image, _ in everyone}
    pairs = [
        (large[id(image)], Face(face.box * 6, (face.landmarks + 0.5) * 6 - np.float32(0.5), face.score))
        for image, face in everyone
    ]
    for one, other in zip(recognizer.embed(everyone), recognizer.embed(pairs), strict=True):
        assert float(one.embedding @ other.embedding) >= 0.98


@pytest.mark.parametrize("times", [2, 4])
def test_a_face_found_in_a_large_photo_is_the_same_person(
    recognizer: Recognizer, portrait: Image, portrait_face: Face, times: int
) -> None:
    large = enlarged(portrait, times)
    a, b = recognizer.embed([(portrait, portrait_face), (large, recognizer.detect(large)[0])])
    assert float(a.embedding @ b.embedding) > 0.85


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_a_tilted_head_is_the_same_person(
    recognizer: Recognizer, portrait: Image, portrait_face: Face, degrees: float
) -> None:
    x, y = ((portrait_face.box[:2] + portrait_face.box[2:]) / 2).tolist()
    matrix = cv2.getRotationMatrix2D((x, y), degrees, 1.0)
    tilted = Image(np.asarray(cv2.warpAffine(portrait.pixels, matrix, (512, 512)), np.uint8))
    a, b = recognizer.embed([(portrait, portrait_face), (tilted, recognizer.detect(tilted)[0])])
    assert float(a.embedding @ b.embedding) > 0.6


def test_the_norm_of_the_features_is_lower_for_a_poor_image(
    recognizer: Recognizer, portrait: Image, portrait_face: Face
) -> None:
    crop = recognizer.crop(portrait, portrait_face)
    blurred = np.asarray(cv2.GaussianBlur(crop, (0, 0), 6), np.uint8)
    _, norms = recognizer.embed_crops([crop, blurred])
    assert norms[1] < 0.8 * norms[0]


def test_the_limit_of_pixels_is_that_of_the_options(recognizer: Recognizer, bundle: Bundle, astronaut: bytes) -> None:
    limited, _ = with_options(recognizer, bundle, RecognitionOptions(max_pixels=512 * 511))
    with pytest.raises(ImageTooLarge):
        limited.decode(astronaut)
    assert recognizer.decode(astronaut).pixels.shape == (512, 512, 3)


def test_several_threads_embed_side_by_side(recognizer: Recognizer, group_photo: bytes, astronaut: bytes) -> None:
    def embed(content: bytes) -> NDArray[np.float32]:
        image = recognizer.decode(content)
        return np.stack([found.embedding for found in recognizer.embed([(image, f) for f in recognizer.detect(image)])])

    expected = {content: embed(content) for content in (group_photo, astronaut)}
    contents = [group_photo, astronaut] * 3
    with ThreadPoolExecutor(4) as threads:
        for content, found in zip(contents, threads.map(embed, contents), strict=True):
            np.testing.assert_allclose(found, expected[content], atol=1e-5)
