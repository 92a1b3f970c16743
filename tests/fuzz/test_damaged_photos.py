"""A short run of what ``make fuzz`` does for hours: damaged photos through decode → detect → align."""

import os
import random
from collections import Counter

from service.recognition.recognizer import Recognizer
from tests.fuzz.photos import check, corpus, damaged

SEED = os.environ.get("LIKENESS_TEST_SEED") or str(int.from_bytes(os.urandom(4), "big"))
CASES = 300


def test_damaged_photos_are_refused_or_read(recognizer: Recognizer, astronaut: bytes) -> None:
    print(f"LIKENESS_TEST_SEED={SEED}")
    seeds = corpus(astronaut)
    found = Counter(check(recognizer, damaged(seeds, random.Random(f"{SEED} {number}"))) for number in range(CASES))
    assert found["InvalidImage"] > 10
    assert found["faces"] + found["no face"] > 10


def test_sound_photos_are_read(recognizer: Recognizer, astronaut: bytes) -> None:
    found = Counter(check(recognizer, content) for content in corpus(astronaut))
    assert found["faces"] >= 6
    assert found["InvalidImage"] == 0
