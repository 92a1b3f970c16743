"""Page-locked memory, as far as a machine without a GPU shows it."""

from pathlib import Path

import pytest

from service.runtime import pinned


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_without_a_driver_there_is_none_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pinned._say_once.cache_clear()
    assert pinned.page_locked((1, 8, 8, 3), 0) is None
    assert pinned.page_locked((2, 8, 8, 3), 0) is None
    [said] = caplog.records
    assert "not locked" in said.message
