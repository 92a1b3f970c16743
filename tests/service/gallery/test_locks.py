"""The read-write lock: who may be inside together, and that nobody is starved."""

import threading
import time

import pytest

from service.gallery.locks import ReadWriteLock


def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_for_queue(lock, length):
    deadline = time.monotonic() + 5
    while len(lock._queue) != length:
        assert time.monotonic() < deadline, "Nobody queues."
        time.sleep(0.001)


def finish(threads):
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "A thread still waits for the lock."


def test_readers_are_inside_together():
    lock, together = ReadWriteLock(), threading.Barrier(4)

    def read():
        with lock.reading():
            together.wait(5)

    finish([start(read) for _ in range(4)])
    assert not together.broken


def test_turns_are_taken_in_order_of_arrival():
    lock, order = ReadWriteLock(), []

    def read(name):
        with lock.reading():
            order.append(name)

    def write(name):
        with lock.writing():
            order.append(name)

    threads = []
    with lock.reading():
        for number, work in enumerate([write, read, read, write, read], 1):
            threads.append(start(lambda work=work, number=number: work(number)))
            wait_for_queue(lock, number)
        assert order == []
    finish(threads)
    assert (order[0], sorted(order[1:3]), order[3:]) == (1, [2, 3], [4, 5])


@pytest.mark.parametrize("many", ["reading", "writing"])
def test_a_crowd_of_one_kind_does_not_starve_the_other(many):
    lock, stop = ReadWriteLock(), threading.Event()
    few = "writing" if many == "reading" else "reading"

    def crowd():
        while not stop.is_set():
            with getattr(lock, many)():
                time.sleep(0.002)

    threads = [start(crowd) for _ in range(6)]
    begin = time.monotonic()
    for _ in range(20):
        with getattr(lock, few)():
            pass
    took = time.monotonic() - begin
    stop.set()
    finish(threads)
    assert took < 5  # six turns of 2 ms each are waited for, 0.24 s in all


def test_a_writer_is_alone():
    lock, inside, errors = ReadWriteLock(), {"readers": 0, "writers": 0}, []
    guard = threading.Lock()

    def work(kind):
        for _ in range(150):
            with getattr(lock, "reading" if kind == "readers" else "writing")():
                with guard:
                    inside[kind] += 1
                    if inside["writers"] > 1 or (inside["writers"] and inside["readers"]):
                        errors.append(dict(inside))
                time.sleep(0.0001)
                with guard:
                    inside[kind] -= 1

    finish([start(lambda kind=kind: work(kind)) for kind in ("readers", "writers") * 3])
    assert errors == []


def test_an_interrupted_wait_blocks_nobody(monkeypatch):
    lock = ReadWriteLock()
    waits = lock._changed.wait

    def interrupted(*_):
        monkeypatch.setattr(lock._changed, "wait", waits)
        raise KeyboardInterrupt

    with lock.reading():
        monkeypatch.setattr(lock._changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt), lock.writing():
            pass
        other = threading.Thread(target=lambda: lock.reading().__enter__())
        other.start()
        finish([other])


def test_an_error_inside_lets_the_lock_go():
    lock = ReadWriteLock()
    for kind in (lock.reading, lock.writing, lock.reading):
        with pytest.raises(ZeroDivisionError), kind():
            _ = 1 / 0
    with lock.writing():
        pass
