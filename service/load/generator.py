"""Closed and open loops of requests against a running service.

A closed loop has so many clients, each of whom sends when the answer before has come: it shows what the service can
do, and hides how long callers wait, since a slow answer delays the next question (coordinated omission). An open loop
sends at a given rate whatever happens, and counts each latency from the moment the request was *to be* sent.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from service.errors import Unavailable
from service.load.connection import Connection, Target

Arrivals = Literal["even", "poisson"]
# What stands for a status where there was no answer.
NO_ANSWER = 0


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        seconds: from the first intended send to the last answer.
        offered: requests a second that were to be sent; None in a closed loop.
        latencies: seconds, of the answers with status 200.
        refusals: seconds, of those with 429.
        statuses: how many answers of each status; ``NO_ANSWER`` for a broken connection.
    """

    seconds: float = 0.0
    offered: float | None = None
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def count(self, status: int, latency: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.latencies.append(latency)
        elif status == 429:
            self.refusals.append(latency)


async def closed_loop(to: Target, clients: int, seconds: float, retry_s: float = 0.0) -> Outcome:
    """``clients`` that each send one request after the other.

    Args:
        retry_s: how long a client waits after it was refused.
    """
    outcome, start = Outcome(), time.perf_counter()

    async def client() -> None:
        connection = Connection(to)
        while (sent := time.perf_counter()) - start < seconds:
            status = await _status(connection)
            outcome.count(status, time.perf_counter() - sent)
            if status != 200:
                await asyncio.sleep(retry_s)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.seconds = time.perf_counter() - start
    return outcome


async def open_loop(
    to: Target,
    rate: float,
    seconds: float,
    arrivals: Arrivals,
    seed: int = 0,
    told: Callable[[int], object] = lambda _: None,
) -> Outcome:
    """``rate`` requests a second, sent at even distances or as a Poisson process, whatever the answers do.

    Args:
        told: called for each answer, with its status.
    """
    outcome = Outcome(offered=rate)
    idle: list[Connection] = []
    under_way: set[asyncio.Task[None]] = set()
    rng = random.Random(seed)
    start = time.perf_counter()

    async def one(intended: float) -> None:
        connection = idle.pop() if idle else Connection(to)
        status = await _status(connection)
        outcome.count(status, time.perf_counter() - intended)
        told(status)
        idle.append(connection)

    intended = start
    while intended - start < seconds:
        await asyncio.sleep(max(0.0, intended - time.perf_counter()))
        task = asyncio.create_task(one(intended))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        intended += 1 / rate if arrivals == "even" else rng.expovariate(rate)
    await asyncio.gather(*under_way)
    outcome.seconds = time.perf_counter() - start
    for connection in idle:
        connection.close()
    return outcome


async def _status(connection: Connection) -> int:
    try:
        return await connection.ask()
    except Unavailable:
        return NO_ANSWER
