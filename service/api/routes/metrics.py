"""What the service counts and times about itself, in Prometheus' text format."""

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.figures import refresh
from service.metrics import text

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters and histograms; times in seconds, waiting apart from computing."""
    # Not among the store's workers: who watches must see most when these are busy.
    await anyio.to_thread.run_sync(refresh, request.app.state)
    return Response(text(), media_type=CONTENT_TYPE_LATEST)
