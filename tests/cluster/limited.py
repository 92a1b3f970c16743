"""A client whose key has a rate, and who asks much more often, all replicas in turn."""

import time

import httpx2

from tests.cluster.client import Site

PER_MINUTE = 12
PAUSE_S = 0.1


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
        self._began, turn = time.monotonic(), 0
        with httpx2.Client(headers=self._headers, timeout=60) as http:
            while not self.site.over.wait(PAUSE_S):
                if up := self.site.cluster.up():
                    turn += 1
                    self._ask(http, up[turn % len(up)].url)

    def _ask(self, http: httpx2.Client, url: str) -> None:
        try:
            answer = http.get(f"{url}/v1/galleries/g")
        except httpx2.TransportError:
            return
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
