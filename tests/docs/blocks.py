"""The commands in the documentation: fenced blocks of sh, console and python, and what stands in backticks.

A comment on the line before a block says how a test treats it: ``<!-- not run: REASON -->``, or ``<!-- run after: CODE
-->`` with what the block takes for granted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SHELL, PYTHON = ("sh", "bash", "console"), ("python",)
MARK = re.compile(r"<!-- (not run|run after): (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its fence. ``mark`` is "not run", "run after" or nothing."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    told: str

    @property
    def is_code(self) -> bool:
        return self.language in SHELL + PYTHON

    @property
    def is_run(self) -> bool:
        return self.is_code and self.mark != "not run"

    @property
    def commands(self) -> list[str]:
        """Lines of a shell, continued ones in one piece; of a console those after a prompt."""
        if self.language not in SHELL:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip()]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    before, start, language, text = "", 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if start and line.strip() == "```":
            mark = MARK.match(before)
            yield Block(page, start, language, "\n".join(text), *(mark.groups() if mark else ("", "")))
            start, before = 0, ""
        elif start:
            text.append(line)
        elif line.startswith("```"):
            start, language, text = number, line[3:].strip(), []
        else:
            before = line.strip()


def assert_first_steps(printed: str) -> None:
    """What the commands of the README print of its sample photos: two match, a visitor is known, a stranger not."""
    assert '"match":true' in printed, printed
    assert re.search(r": identified$", printed, re.MULTILINE), printed
    assert [*re.findall(r'"decision":"(\w+)"', printed)] == ["identified", "unknown"], printed


def inline_of(page: Path) -> Iterator[str]:
    """What stands in backticks between the blocks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", prose)
