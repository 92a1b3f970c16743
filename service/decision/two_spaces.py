"""Decisions in a gallery whose persons are in two embedding spaces, each with a calibration of its own.

A search of N persons may identify a stranger with probability FPIR. Of these n are in one space and N − n in the
other, and the comparisons are independent: 1 − FPIR = (1 − FPIR₁)(1 − FPIR₂). Every person gets the same part of it:
1 − FPIR₁ = (1 − FPIR)^(n/N), and so for the other. With one photo a person that is the threshold which a search of all
N persons would have in each space; with several it still holds for the union, whatever both calibrations say of them.

Cosines of two spaces are not comparable. What is, is how rare a similarity is among strangers, its FMR, set against the
FMR of the threshold it has to reach: ``Rule.excess``. Who reaches a threshold comes before who does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.decision.curve import Interval
from service.decision.persons import Sizes
from service.decision.searches import DEFAULT_FPIR, SearchPoint, Wanted, choose_search_point
from service.decision.thresholds import Thresholds
from service.errors import InvalidRequest, UnsupportedErrorRate


@dataclass(frozen=True)
class Part:
    """The persons who are searched in one space.

    Attributes:
        contract: of the space.
        thresholds: of the bundle with this contract.
        sizes: how many of the persons have how many faces there.
    """

    contract: str
    thresholds: Thresholds
    sizes: Sizes

    @property
    def persons(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Rule:
    """How one space decides. ``point``: its own rates, those of the persons in it."""

    part: Part
    point: SearchPoint

    def excess(self, similarity: float) -> float:
        """log10 of how many times as often strangers are as similar as that as they reach the threshold; below 0 for
        who reaches it with room. Without a calibration, how far the threshold is missed."""
        curve = self.part.thresholds.curve
        if curve is None:
            return self.point.threshold - similarity
        return curve.log_fmr_beyond(similarity) - curve.log_fmr_beyond(self.point.threshold)

    def fmr(self, similarity: float) -> float | None:
        """How often a stranger is as similar as that; None where the calibration cannot say."""
        curve = self.part.thresholds.curve
        known = None if curve is None else curve.at_threshold(similarity, extrapolate=True)
        return None if known is None else known.fmr


def choose_rules(parts: Sequence[Part], wanted: Wanted, pinned: Part | None = None) -> list[Rule]:
    """The rule of each space, so that what is wanted holds for both together.

    Args:
        parts: where somebody is, the pinned space first if it is among them.
        pinned: the space that a raw ``threshold`` is one of, also where nobody is in it; the others have the one of
            the same FMR. None: the first of ``parts``.

    Raises:
        InvalidRequest, UnsupportedErrorRate: as ``choose_search_point``; one of the calibrations cannot support it.
    """
    pinned = pinned or parts[0]
    if len(parts) == 1 and parts[0].contract == pinned.contract:
        return [Rule(parts[0], choose_search_point(parts[0].thresholds, parts[0].sizes, wanted))]
    total = sum(part.persons for part in parts)
    return [Rule(part, _point(part, pinned, total, wanted)) for part in parts]


def _point(part: Part, pinned: Part, total: int, wanted: Wanted) -> SearchPoint:
    share = part.persons / total if total else 1.0
    mine = wanted
    if wanted.fpir is not None and wanted.fmr is None and wanted.threshold is None:
        mine = replace(wanted, fpir=_share(wanted.fpir, share))
    elif wanted.threshold is not None and part.contract != pinned.contract:
        mine = replace(wanted, threshold=translated(wanted.threshold, pinned.thresholds, part.thresholds))
    try:
        return choose_search_point(part.thresholds, part.sizes, mine, _share(DEFAULT_FPIR, share))
    except UnsupportedErrorRate as error:
        raise UnsupportedErrorRate(
            f"In the space of contract {part.contract[:16]}…, which the gallery has during its migration: "
            f"{error.message}",
            {**error.details, "embedding_contract": part.contract},
        ) from error


def _share(fpir: float, share: float) -> float:
    return -math.expm1(share * math.log1p(-fpir))


def translated(threshold: float, of: Thresholds, to: Thresholds) -> float:
    """The threshold that has the same FMR by another calibration."""
    if of.curve is None or to.curve is None:
        raise InvalidRequest(
            "A raw threshold says nothing in the other space of a gallery that is being migrated, as a bundle has no "
            "calibration. Measure it with `likeness calibrate`."
        )
    wanted, low, high = of.curve.log_fmr_beyond(threshold), -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if to.curve.log_fmr_beyond(middle) > wanted else (low, middle)
    return high


def together(rules: Sequence[Rule]) -> SearchPoint:
    """What is to be told of the whole search: threshold and FMR are those of the first space, FPIR and FNIR of all."""
    first = rules[0].point
    if len(rules) == 1:
        return first
    points = [rule.point for rule in rules]
    persons = [rule.part.persons for rule in rules]
    ends = [point.fpir_interval for point in points]
    interval: Interval | None = None
    if all(end is not None for end in ends):
        low, high = (_union([end[side] for end in ends if end is not None]) for side in (0, 1))
        interval = None if low is None or high is None else (low, high)
    missed = [point.fnir for point in points]
    fnir = None
    if sum(persons) and all(rate is not None for rate in missed):
        fnir = sum(n * rate for n, rate in zip(persons, missed, strict=True) if rate is not None) / sum(persons)
    return replace(
        first,
        fpir=_union([point.fpir for point in points]),
        fnir=fnir,
        fpir_interval=interval,
        extrapolated=any(point.extrapolated for point in points),
    )


def _union(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    return -math.expm1(sum(math.log1p(-min(rate, 1 - 1e-12)) for rate in known))
