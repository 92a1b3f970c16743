"""Where ONNX Runtime really ran each node of a network.

``get_providers`` says only what a session may use. ONNX Runtime gives every node to the best provider that has a
kernel for it, and without a word to the CPU what no other can take. Its option ``session.disable_cpu_ep_fallback``
does not help: it refuses shapes as well, whole numbers that ONNX Runtime computes on the CPU on purpose, so that no
kernel has to wait for them to come back from the GPU. The profile of one run tells the two apart: it has the provider
and the output types of each node.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import DeviceError

# Shapes, indices and conditions. Pixels are uint8, everything after them is floating point.
_SHAPE_TYPES = frozenset({"int64", "int32", "bool"})


@dataclass(frozen=True)
class Placement:
    """One node as it was run: its operator, its execution provider, and the element types of its outputs."""

    operator: str
    provider: str
    types: frozenset[str]

    @property
    def computes(self) -> bool:
        """More than shapes and indices."""
        return not self.types <= _SHAPE_TYPES


def read_profile(path: Path) -> list[Placement]:
    """The nodes in a profile of ONNX Runtime, in the order in which they were run."""
    events = json.loads(path.read_text(encoding="utf-8"))
    return [
        Placement(
            operator=str(event["args"]["op_name"]),
            provider=str(event["args"]["provider"]),
            types=frozenset(kind for output in event["args"]["output_type_shape"] for kind in output),
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def ran_on(role: str, nodes: Iterable[Placement], allowed: Sequence[str]) -> str:
    """The providers that computed, best first, joined by " + ".

    Args:
        role: the network's, for the message.
        allowed: providers that may compute, best first.

    Raises:
        DeviceError: another one computed something, or the best one nothing.
    """
    computing = [node for node in nodes if node.computes]
    strays = Counter((node.operator, node.provider) for node in computing if node.provider not in allowed)
    if strays:
        listed = ", ".join(
            f"{count} × {operator} on {provider}" for (operator, provider), count in strays.most_common(5)
        )
        raise DeviceError(
            f"The {role} was to run on {allowed[0]}, but ONNX Runtime runs {strays.total()} of its {len(computing)} "
            f"nodes elsewhere: {listed}. Ask for 'cpu', or for another provider.",
            {"elsewhere": strays.total(), "nodes": len(computing)},
        )
    used = {node.provider for node in computing}
    if allowed[0] not in used:
        raise DeviceError(f"The {role} was to run on {allowed[0]}, but none of its {len(computing)} nodes does.")
    return " + ".join(provider for provider in allowed if provider in used)
