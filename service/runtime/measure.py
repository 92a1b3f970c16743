"""Measures how the networks are best run on this machine; ``tuning`` says what the figures mean."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.runtime.bundle import Bundle
from service.runtime.networks import CPU, RuntimeOptions, available_cores, choose_provider, open_networks
from service.runtime.tuning import Plan, plan_of

# What differs by less is noise, and then the simpler plan is the better one: fewer threads, smaller batches.
T = TypeVar("T")
Images = NDArray[np.uint8]
Network = Callable[[Images], object]

WORTH = 1.05
_DETECTOR_SIDE = 256
# Runs of the detector for each run of the embedder: a photo is looked at twice for one face that is embedded.
_LOOKS = 2.0


@dataclass(frozen=True)
class Measured:
    """One way to run one network, and the images a second that came out."""

    network: str
    threads: int
    at_once: int
    batch: int
    rate: float


def measure(bundle: Bundle, wanted: RuntimeOptions, seconds: float) -> tuple[Plan, list[Measured]]:
    """The best plan, and all that was measured for it, each way for ``seconds`` in each of two rounds.

    Args:
        wanted: where the networks run; its threads are not looked at.
    """
    cores = available_cores()
    on_cpu = choose_provider(wanted.provider, wanted.gpu) == CPU
    batches = (1, 2, 4, 8) if on_cpu else (1, 8, 16, 32, 64)
    ways = [(t, max(1, cores // t)) for t in _powers_of_two(cores)] if on_cpu else [(1, 1), (1, 2)]
    side = bundle.card.contract.alignment.size
    runs: dict[tuple[str, int, int, int], tuple[Network, Images]] = {}
    rng = np.random.default_rng(0)
    for threads in dict.fromkeys(threads for threads, _ in ways):
        options = replace(wanted, threads=threads)
        networks: tuple[Network, Network] = open_networks(
            bundle.detector, bundle.embedder, bundle.card.contract, options
        )
        for name, network, size in zip(("detector", "embedder"), networks, (_DETECTOR_SIDE, side), strict=True):
            for at_once in (a for t, a in ways if t == threads):
                for batch in batches:
                    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
                    network(images)
                    runs[name, threads, at_once, batch] = (network, images)
    rates: dict[tuple[str, int, int, int], list[float]] = {way: [] for way in runs}
    # In rounds: what else the machine does then disturbs all ways alike.
    for _ in range(2):
        for way, (network, images) in runs.items():
            rates[way].append(_rate(network, images, way[2], seconds))
    found = [Measured(*way, max(rate)) for way, rate in rates.items()]
    return choose(found), found


def choose(found: list[Measured]) -> Plan:
    """The plan with the highest rate of photos; a simpler one that is within ``WORTH`` of it comes before."""
    plans: list[tuple[float, tuple[int, int], dict[str, int]]] = []
    for way in dict.fromkeys((m.threads, m.at_once) for m in found):
        best: dict[str, Measured] = {}
        for name in ("detector", "embedder"):
            mine = [m for m in found if m.network == name and (m.threads, m.at_once) == way]
            best[name] = _simplest(mine, lambda m: m.rate)
        photos = 1 / (_LOOKS / best["detector"].rate + 1 / best["embedder"].rate)
        plans.append((photos, way, {name: m.batch for name, m in best.items()}))
    _, (threads, at_once), batch = _simplest(plans, lambda plan: plan[0])
    return plan_of(threads, batch["detector"], batch["embedder"], at_once, measured=True)


def _simplest(ways: list[T], rate: Callable[[T], float]) -> T:
    """The first, from simple to elaborate, that no later one beats by more than ``WORTH``."""
    chosen = ways[0]
    for way in ways[1:]:
        if rate(way) > WORTH * rate(chosen):
            chosen = way
    return chosen


def _rate(network: Network, images: Images, at_once: int, s: float) -> float:
    """Images a second, with so many threads that call the network."""
    done, start = [0] * at_once, time.perf_counter()

    def work(number: int) -> None:
        while time.perf_counter() - start < s:
            network(images)
            done[number] += len(images)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def _powers_of_two(most: int) -> Iterator[int]:
    number = 1
    while number < most:
        yield number
        number *= 2
    yield most
