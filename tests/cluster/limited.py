"""A client whose key has a rate, and who asks much more often, all replicas in turn."""

import time

import httpx2

from tests.cluster.client import Site

PER_MINUTE = 60
PAUSE_S = 0.15


class Limited:
    """Attributes:
    allowed: requests that were answered.
    refused: requests that were told to come later.
    """

    def __init__(self, site: Site, key: str) -> None:
        self.site, self._headers = site, {"authorization": f"Bearer {key}"}
        self.allowed = self.refused = 0
        self._began = time.monotonic()

    def work(self) -> None:
        self._began = time.monotonic()
        turn = 0
        while not self.site.over.wait(PAUSE_S):
            if not (up := self.site.cluster.up()):
                continue
            turn += 1
            url = f"{up[turn % len(up)].url}/v1/galleries/g"
            try:
                answer = httpx2.get(url, headers=self._headers, timeout=60)
            except httpx2.TransportError:
                continue
            self.site.told.note("limited", answer.status_code)
            self.allowed += answer.status_code == 200
            self.refused += answer.status_code == 429
            if answer.status_code not in (200, 429, 503) or (answer.status_code != 200 and not _later(answer)):
                self.site.told.complain(f"limited: {answer.status_code} {answer.text[:200]}")

    def most(self, crashes: int) -> int:
        """Requests that the key could make: a minute's at once, again where a crash forgot the count, and the rate."""
        return int(PER_MINUTE * (1 + crashes) + (time.monotonic() - self._began) * PER_MINUTE / 60) + 1


def _later(answer: httpx2.Response) -> bool:
    return "retry-after" in answer.headers
