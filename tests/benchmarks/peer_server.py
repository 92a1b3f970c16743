"""What one writes oneself: insightface behind a FastAPI route, whose plain ``def`` runs in FastAPI's thread pool.

python -m tests.benchmarks.peer_server MODEL_ROOT
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, File, Form
from insightface.app import FaceAnalysis

MODEL = "pair"


def face_analysis(root: Path) -> FaceAnalysis:
    """The package's own pipeline over the networks in ``root``/models/pair, with its defaults, on the CPU."""
    analysis = FaceAnalysis(MODEL, root=str(root), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_size=(640, 640))
    return analysis


def embedding(analysis: FaceAnalysis, content: bytes) -> Any:
    """Of the largest face, unit length."""
    faces = analysis.get(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    return max(faces, key=lambda f: (f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1])).normed_embedding


def create_app(analysis: FaceAnalysis) -> FastAPI:
    app = FastAPI()

    @app.get("/ready")
    def ready() -> str:
        return "ready"

    @app.post("/verify")
    def verify(
        image_a: Annotated[bytes, File()], image_b: Annotated[bytes, File()], threshold: Annotated[float, Form()]
    ) -> dict[str, float | bool]:
        similarity = float(embedding(analysis, image_a) @ embedding(analysis, image_b))
        return {"similarity": similarity, "match": similarity >= threshold}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(face_analysis(Path(sys.argv[1]))), port=0)
