"""Twice what the service can do, for minutes; and a crowd of clients who do not behave.

    python -m tests.benchmarks.soak [--data-dir data] [--bundle open] [--minutes 10] [--json]

Verifications of portraits. First a lone client and a saturated closed loop; then an open loop, a Poisson process, at
half the saturated rate, without and with a crowd beside it: 1,000 idle connections, 100 that send a byte a second,
100 in the middle of a head, and two that send a request and leave, again and again. Then twice the saturated rate;
then the lone client again. Exit code 1 if any answer is neither 200 nor 429, or accepted requests' p99 is past their
deadline.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from service.cli.server import allow_many_connections
from service.engine import load_engine
from service.load.connection import Target
from service.load.curve import HEADER, line, point
from service.load.generator import Outcome, closed_loop, open_loop
from service.runtime.networks import available_cores
from service.settings import read_settings
from tests.benchmarks.processes import Server, likeness
from tests.benchmarks.throughput import verify_target
from tests.benchmarks.verify_stages import portraits

IDLE, TRICKLING, HALFWAY, LEAVING = 1000, 100, 100, 2
SAMPLE_S = 5.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--bundle", default="open")
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    allow_many_connections()
    settings = read_settings(data_dir=args.data_dir, bundle=args.bundle)
    photos = portraits(load_engine(settings), 6)
    with likeness(args.data_dir, args.bundle) as served:
        found, memory = asyncio.run(measure(served, verify_target(served.url, photos), 60 * args.minutes))
    points = {name: point(outcome, None) for name, outcome in found.items()}
    saturated = points["saturated"].throughput
    before, after = points["lone before"].p50_ms or np.nan, points["lone after"].p50_ms or np.nan
    quiet, crowded = points["half load"], points["half load, crowd"]
    settled = memory[min(len(memory) // 4, 12) :]
    p99_s = (points["twice the load"].p99_ms or np.nan) / 1000
    ratios = {
        "p50 beside the crowd / without it": (crowded.p50_ms or np.nan) / (quiet.p50_ms or np.nan),
        "p99 beside the crowd / without it": (crowded.p99_ms or np.nan) / (quiet.p99_ms or np.nan),
        "done at twice the load / saturated": points["twice the load"].throughput / saturated,
        "accepted p99 at twice the load / deadline": p99_s / settings.request_timeout_s,
        "lone p50 after / before": after / before,
        "memory at the end / when it had settled": settled[-1] / settled[0],
    }
    others = {n: o.statuses for n, o in found.items() if set(o.statuses) - {200, 429}}
    if args.json:
        print(json.dumps({"ratios": ratios, "others": others, "memory_mib": [m / 2**20 for m in memory]}))
    else:
        print(f"bundle {args.bundle}, {available_cores()} cores, {args.minutes:g} minutes at twice the load\n")
        for label, value in ratios.items():
            print(f"{label:<44}{value:7.2f}")
        print(f"\n{'':<18}{HEADER[12:]}")
        for name, p in points.items():
            print(f"{name:<18}{line(p, None)[12:]}")
        print(f"\nmemory, MiB: {', '.join(f'{m / 2**20:.0f}' for m in memory[:: max(1, len(memory) // 12)])}")
        print(f"answers other than 200 and 429: {others or 'none'}")
    sys.exit(bool(others) or not p99_s < settings.request_timeout_s)


async def measure(served: Server, to: Target, seconds: float) -> tuple[dict[str, Outcome], list[int]]:
    """Outcomes by name, and the server's resident bytes while it had too much to do."""
    part = max(4.0, seconds / 20)
    await closed_loop(to, 4, 3.0)  # warm
    found = {"lone before": await closed_loop(to, 1, part), "saturated": await closed_loop(to, 16, part)}
    rate = len(found["saturated"].latencies) / found["saturated"].seconds
    found["half load"] = await open_loop(to, rate / 2, part, "poisson")
    async with crowd(to):
        found["half load, crowd"] = await open_loop(to, rate / 2, part, "poisson")
    memory: list[int] = []

    async def sample() -> None:
        while True:
            memory.append(served.resident_bytes())
            await asyncio.sleep(min(SAMPLE_S, seconds / 20))

    sampling = asyncio.create_task(sample())
    found["twice the load"] = await open_loop(to, 2 * rate, seconds, "poisson")
    sampling.cancel()
    found["lone after"] = await closed_loop(to, 1, part)
    return found, memory


@contextlib.asynccontextmanager
async def crowd(to: Target) -> AsyncIterator[None]:
    """Clients who do not behave, until the end of the block."""
    request = next(to.requests)
    connections = [await asyncio.open_connection(to.host, to.port) for _ in range(IDLE + TRICKLING + HALFWAY)]
    writers = [writer for _, writer in connections]
    for writer in writers[:TRICKLING]:
        writer.write(request[:500])
    for writer in writers[TRICKLING : TRICKLING + HALFWAY]:
        writer.write(request[:40])

    async def trickle() -> None:
        for place in range(500, len(request)):
            for writer in writers[:TRICKLING]:
                if not writer.is_closing():
                    writer.write(request[place : place + 1])
            await asyncio.sleep(1)

    async def leave() -> None:
        while True:
            _, writer = await asyncio.open_connection(to.host, to.port)
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()
            await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(trickle()), *(asyncio.create_task(leave()) for _ in range(LEAVING))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for writer in writers:
            writer.transport.abort()


if __name__ == "__main__":
    main()
