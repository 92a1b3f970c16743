"""What the service counts and times about itself, in Prometheus' text format."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.metrics import text

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Counters and histograms; times in seconds, waiting apart from computing."""
    return Response(text(), media_type=CONTENT_TYPE_LATEST)
