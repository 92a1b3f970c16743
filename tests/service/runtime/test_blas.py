"""BLAS on one thread, in a process as ``likeness serve`` is one: the setting is for a whole process."""

import json
import subprocess
import sys

PROGRAM = """
import json, threadpoolctl, numpy
from service.gallery.faiss_library import faiss
from service.runtime import blas
before = threadpoolctl.threadpool_info()
blas.one_thread_each()
numpy.ones((512, 512)) @ numpy.ones((512, 512))
print(json.dumps([[i["num_threads"] for i in found if i["user_api"] == "blas"]
                  for found in (before, threadpoolctl.threadpool_info())]))
"""


def test_every_blas_that_is_loaded_works_on_the_calling_thread() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert len(before) >= 2  # numpy's and FAISS's
    assert after == [1] * len(before)
