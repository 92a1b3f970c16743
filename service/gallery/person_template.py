"""What stands for a person in comparisons: the mean of the person's photos, of unit length.

On LFW it misses half as many persons as the most similar photo does, and weighting the photos by their quality adds
nothing to it: see docs/thresholds.md.
"""

import numpy as np

from service.gallery.vectors import Keys, Vectors

# Faces whose sum is shorter than this point nowhere together.
SHORTEST_SUM = 1e-6
# Components are added up as whole multiples of 2⁻⁴⁰, whose sums do not depend on their order; of up to 2²² faces.
ONE = 2.0**40


def person_template(faces: Vectors) -> Vectors:
    """The template, float32 (d,), of a person with these faces, (k, d)."""
    template: Vectors = person_templates(faces, np.zeros(1, np.int64), np.array([len(faces)]))[0]
    return template


def person_templates(faces: Vectors, starts: Keys, counts: Keys) -> Vectors:
    """The templates, float32 (n, d), of persons with ``counts`` (n,) faces each, the first at ``starts`` (n,).

    The same faces give the same template to the last bit, in whatever order they are and whoever else is in the call.
    One face is its own template; faces that point nowhere together have that of one of them.
    """
    templates = faces[starts]
    several = np.flatnonzero(counts > 1)
    if not len(several):
        return templates
    wholes = np.zeros((len(several), faces.shape[1]), np.int64)
    for place in range(int(counts.max())):
        more = counts[several] > place
        wholes[more] += np.rint(faces[starts[several[more]] + place] * ONE).astype(np.int64)
    sums = wholes / ONE
    lengths = np.sqrt((sums * sums).sum(axis=1))
    templates[several] = sums / np.maximum(lengths, SHORTEST_SUM)[:, None]
    for row in several[lengths <= SHORTEST_SUM]:
        own = faces[starts[row] : starts[row] + counts[row]]
        templates[row] = own[np.lexsort(own.T)[0]]
    return templates
