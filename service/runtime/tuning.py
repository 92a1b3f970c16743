"""How the networks are best run on this machine: threads in a network, networks at once, images in a batch.

``likeness tune`` measures and keeps the answer in ``<data dir>/tuning/``, one file for each machine and bundle;
without one the plan is what is never slower than running every image by itself.
"""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime as ort

from service.errors import InvalidRequest
from service.runtime.batcher import BatchLimits
from service.runtime.card import Card
from service.runtime.networks import CPU, Provider, available_cores, choose_provider
from service.runtime.providers import gpu_name

# Where nothing was measured, on a GPU: its memory allows it, and a fuller batch is never a slower one.
_GPU_BATCH, _GPU_AT_ONCE = 32, 2
_MOST_PHOTO_THREADS = 64


@dataclass(frozen=True)
class Plan:
    """How the networks are run.

    Attributes:
        threads: in one run of a network, on the CPU.
        photo_threads: photos that are worked on at once.
        detector, embedder: the batches of the two networks.
        measured: false where it was not measured but is the plan that is safe.
    """

    threads: int
    photo_threads: int
    detector: BatchLimits
    embedder: BatchLimits
    measured: bool

    def __str__(self) -> str:
        return (
            f"{self.photo_threads} photos at once, {self.threads} threads a network, "
            f"detector {self.detector.parallel} × {self.detector.most}, "
            f"embedder {self.embedder.parallel} × {self.embedder.most} (at once × batch), "
            f"{'as measured on this machine' if self.measured else 'not measured: see likeness tune'}"
        )


def plan_of(threads: int, detector_batch: int, embedder_batch: int, at_once: int, measured: bool) -> Plan:
    """The plan in which ``at_once`` runs of each network go on at the same time."""
    # Batches fill only if more photos are in work than runs can go on.
    photos = max(available_cores(), at_once * max(detector_batch, embedder_batch))
    return Plan(
        threads,
        min(photos, max(_MOST_PHOTO_THREADS, available_cores())),
        BatchLimits(detector_batch, at_once),
        BatchLimits(embedder_batch, at_once),
        measured,
    )


def safe_plan(provider: Provider, threads: int, gpu: int = 0) -> Plan:
    """On the CPU a run for each core and no batches; 0 ``threads`` are one a core."""
    if choose_provider(provider, gpu) != "CPUExecutionProvider":
        return plan_of(1, _GPU_BATCH, _GPU_BATCH, _GPU_AT_ONCE, measured=False)
    threads = threads or available_cores()
    return plan_of(threads, 1, 1, max(1, available_cores() // threads), measured=False)


def plan_for(data_dir: Path, card: Card, provider: Provider, threads: int | None, gpu: int = 0) -> Plan:
    """The plan measured here for this bundle, or the safe one.

    Args:
        threads: in one run of a network; None leaves it to the plan. A measured plan for other threads is not used.
        gpu: that it would run on; the plan is for one.

    Raises:
        DeviceError: see ``choose_provider``.
        InvalidRequest: the file of the plan is damaged.
    """
    file = plan_file(data_dir, card, provider, gpu)
    if file.is_file():
        plan = _read(file)
        if threads in (None, plan.threads):
            return plan
    return safe_plan(provider, 1 if threads is None else threads, gpu)


def plan_file(data_dir: Path, card: Card, provider: Provider, gpu: int = 0) -> Path:
    """Where the plan of this machine and these networks lies: another processor, GPU or runtime makes it another."""
    chosen = choose_provider(provider, gpu)
    about = (
        *(chosen if chosen == CPU else f"{chosen} {gpu_name(gpu)}", ort.__version__, _processor(), available_cores()),
        *(card.detector.sha256, card.embedder.sha256),
    )
    return data_dir / "tuning" / f"{card.name}-{hashlib.sha256(repr(about).encode()).hexdigest()[:12]}.json"


def keep(plan: Plan, file: Path) -> None:
    """Write the plan down for ``plan_for``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(plan), indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def _read(file: Path) -> Plan:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        detector, embedder = BatchLimits(**found.pop("detector")), BatchLimits(**found.pop("embedder"))
        return Plan(**found, detector=detector, embedder=embedder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidRequest(f"{file} is no plan ({error}). Remove it, or run likeness tune again.") from error


def _processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
