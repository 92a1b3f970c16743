"""What a check has found."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: what was looked at.
        state: ``fail``: the service does not start, or not as it was asked to; ``warn``: it does, and yet.
        found: what there is.
        advice: what to do; empty where there is nothing to.
    """

    check: str
    state: State
    found: str
    advice: str = ""


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; one that cannot be done is a finding, too."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except Exception as error:
        found = f"could not be looked at: {type(error).__name__}: {error}"
        findings.append(Finding(name, "fail", found, "Mend what it says, then ask again."))
    return findings
