"""FAISS, set up as this service uses it. The only module that imports it; others take ``faiss`` from here."""

import os
import warnings

# Read when FAISS loads its OpenMP. Threads that spin while they wait take the cores from those they wait for: with
# other load on the machine 64 probes over 200,000 took 600 ms instead of 70.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
with warnings.catch_warnings():
    # Made by SWIG, whose types lack __module__: nothing that can be mended here, and an error under pytest.
    warnings.simplefilter("ignore", DeprecationWarning)
    import faiss

# Otherwise batches of fewer than 128,000 probes don't go through BLAS: 8 times slower for 64 probes.
faiss.cvar.distance_compute_blas_threshold = 1

__all__ = ["faiss"]
