"""Matrix products on the calling thread.

OpenBLAS, of which numpy, FAISS and OpenCV each bring one, keeps a thread a core and lets it spin for some 25 ms after
every product, in case there is another. Beside networks that have a thread on each core already that took as much of
the processor as the networks themselves: of a search with a photo 93 ms instead of 46 (``make bench-throughput``, 2
cores, 10,000 faces). Scans of a gallery are spread over cores by ``FlatIndex``.
"""

from threadpoolctl import threadpool_limits


def one_thread_each() -> None:
    """From now on every BLAS that is loaded works on the thread that calls it. For the whole process."""
    threadpool_limits(limits=1, user_api="blas")
