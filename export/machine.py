"""The form of an embedder's graph that is fastest on this machine, found by running it.

The forms are the same function (``export.rewrites``), so the choice is no part of the embedding contract, and a bundle
made on one machine is correct, if not fastest, on another.
"""

import logging
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import cv2
import numpy as np
from insightface.data import get_image
from onnx import ModelProto

from export.graph import finish
from export.parity import GROUP_PHOTO
from export.rewrites import Rewrite, expand_prelu, fold_batch_norms, prelu_by_depthwise, widen_groups
from export.stopwatch import clock_for, race
from service.errors import BundleError, DeviceError
from service.runtime.card import GraphForm
from service.runtime.networks import RuntimeOptions, open_embedder_session

log = logging.getLogger(__name__)

# One after the other: the fastest form of one step is what the next one starts from.
STEPS: Mapping[str, Mapping[str, Rewrite]] = MappingProxyType(
    {
        "batch norms": {"folded": fold_batch_norms},
        "PReLU": {"as Mul and Add": expand_prelu, "as depthwise convolutions": prelu_by_depthwise},
        "groups": {"of 8": widen_groups(8), "of 16": widen_groups(16)},
    }
)
# A rewrite is kept if it saves this share, and this many seconds for a crop: neither is within what a clock errs, and
# so the choice does not change from one adoption to the next.
MIN_GAIN = 0.02
MIN_SAVED_S = 5e-5
SECONDS_FOR_A_STEP = 0.8


def fit_to_machine(model: ModelProto, size: int) -> tuple[ModelProto, GraphForm | None]:
    """The fastest form of an adopted embedder for one crop, on the provider and the threads that serve by default.

    Args:
        model: as ``adopt_embedder`` gives it; not changed.
        size: side of the crop.

    Returns:
        The form, and what was chosen; None where there was nothing to choose from, or nothing was gained.
    """
    chosen: list[str] = []
    before = after = 0.0
    provider = ""
    for step, alternatives in STEPS.items():
        forms = {"": model}
        for name, rewrite in alternatives.items():
            if (form := rewritten(model, rewrite)) is not None:
                forms[name] = form
        if len(forms) == 1:
            continue
        seconds, provider = _time(forms, size)
        before = before or seconds[""]
        best = min(seconds, key=seconds.__getitem__)
        saved = seconds[""] - seconds[best]
        figures = ", ".join(f"{name or 'as is'} {1000 * s:.2f} ms" for name, s in seconds.items())
        log.info("Time of a face on this machine, by form of the %s: %s.", step, figures)
        if saved >= max(MIN_GAIN * seconds[""], MIN_SAVED_S):
            model = forms[best]
            chosen.append(f"{step} {best}")
            # Of the steps' own measurements: the first one's graph is what the file was, the last one's what it is.
            after = (after or before) * seconds[best] / seconds[""]
    if not chosen:
        return model, None
    return model, GraphForm(rewrites=tuple(chosen), speedup=round(before / after, 2), provider=provider)


def rewritten(model: ModelProto, rewrite: Rewrite) -> ModelProto | None:
    """A rewritten copy; None where the rewrite found nothing to do."""
    copy = ModelProto.FromString(model.SerializeToString())
    if rewrite(copy.graph) == 0:
        return None
    return finish(copy, {entry.key: entry.value for entry in model.metadata_props})


def _time(forms: Mapping[str, ModelProto], size: int) -> tuple[dict[str, float], str]:
    """Median seconds for one crop of each form, and the provider they ran on."""
    contents = {name: form.SerializeToString() for name, form in forms.items()}
    options = RuntimeOptions()
    try:
        sessions = {name: open_embedder_session(content, size, options) for name, content in contents.items()}
    except DeviceError:
        # The GPU's packages on a machine without one: adoption needs none.
        options = RuntimeOptions(provider="cpu")
        sessions = {name: open_embedder_session(content, size, options) for name, content in contents.items()}
    provider = str(sessions[""].get_providers()[0])
    # A natural image: how long a PRelu takes hangs on how often its input's sign changes.
    image = cv2.resize(get_image(GROUP_PHOTO)[:, :, ::-1], (size, size), interpolation=cv2.INTER_AREA)
    given = {"crops": np.ascontiguousarray(image[None])}
    calls = {name: partial(session.run, None, given) for name, session in sessions.items()}
    try:
        return race(calls, SECONDS_FOR_A_STEP, clock_for(provider, options.threads)), provider
    except Exception as error:  # ONNX Runtime raises a private exception class per status code
        raise BundleError(f"The embedder cannot be run on one crop: {error}") from error
