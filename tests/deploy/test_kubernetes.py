"""deploy/kubernetes against Kubernetes' own schemas, and what the manifests say of the service against the service."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
VERSIONS = ["1.31", kubernetes_validate.latest_version()]
# They are no resources of Kubernetes itself: the kustomizations, values of a chart, a resource of an operator.
OTHERS = {"kustomization.yaml", "prometheus-adapter.yaml", "servicemonitor.yaml"}
PATCHES = {FOLDER / "gpu" / "deployment.yaml", FOLDER / "gpu" / "hpa.yaml"}
WHOLE = sorted(path for path in FOLDER.rglob("*.yaml") if path.name not in OTHERS and path not in PATCHES)


def read(path: str) -> Any:
    return yaml.safe_load((FOLDER / path).read_text(encoding="utf-8"))


def valid(resource: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_manifest_is_what_its_schema_says(path: Path) -> None:
    valid(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_schema_is_a_strict_one() -> None:
    deployment = read("base/deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        valid(deployment)


@pytest.mark.parametrize(("overlay", "device", "nvidia"), [("cpu", None, None), ("gpu", "cuda", "1")])
def test_an_overlay_builds_to_valid_manifests(overlay: str, device: str | None, nvidia: str | None) -> None:
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl, which has kustomize, is not here.")
    command = [kubectl, "kustomize", str(FOLDER / overlay)]
    built = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    resources = {resource["kind"]: resource for resource in yaml.safe_load_all(built)}
    for resource in resources.values():
        valid(resource)
    pod = resources["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    assert container["image"] == f"likeness:{overlay}-open"
    assert environment(container).get("LIKENESS_PROVIDER") == device
    assert container["resources"]["limits"].get("nvidia.com/gpu") == nvidia
    assert "readinessProbe" in container, "a patch changes, and does not replace"
    labels = pod["metadata"]["labels"].items()
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = resources[kind]["spec"]
        chosen = spec.get("podSelector", spec.get("selector"))
        chosen = chosen.get("matchLabels", chosen)
        assert chosen
        assert chosen.items() <= labels
    assert resources["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "likeness"


def test_a_kustomization_names_every_file_beside_it() -> None:
    for path in FOLDER.glob("*/kustomization.yaml"):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = {*told["resources"], *(patch["path"] for patch in told.get("patches", ()))}
        assert {name for name in named if not name.startswith("../")} == {
            beside.name for beside in path.parent.glob("*.yaml") if beside != path
        }


def test_the_pod_may_nothing_and_keeps_nothing() -> None:
    pod = read("base/deployment.yaml")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001, "as in the Dockerfile"
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all("emptyDir" in volume or "secret" in volume for volume in pod["volumes"])


def test_probes_ask_what_the_service_answers_and_its_end_has_the_time_it_takes() -> None:
    pod = read("base/deployment.yaml")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    asked = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {
        "startupProbe": "/v1/health/live",
        "readinessProbe": "/v1/health/ready",
        "livenessProbe": "/v1/health/live",
    }
    assert pod["terminationGracePeriodSeconds"] > float(environment(container)["LIKENESS_DRAIN_S"]) + 30


def test_settings_of_the_pod_are_settings_of_the_service_and_its_secrets_are_in_the_example() -> None:
    [container] = read("base/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    for name in environment(container):
        assert name.removeprefix("LIKENESS_").lower() in Settings.model_fields, name
    example = read("secret.example.yaml")
    assert set(example["stringData"]) == {"database-url", "master-key"}
    [url] = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one]
    assert (url["name"], url["key"]) == (example["metadata"]["name"], "database-url")
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert environment(container)["LIKENESS_MASTER_KEY_COMMAND"] == f"cat {mounted['master-key']}/master-key"


def test_replicas_are_counted_by_a_metric_that_the_service_has() -> None:
    metrics.QUEUE_WAIT_SECONDS.labels("photos").observe(0.01)
    served = {
        sample.name: sample.labels
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.labels.get("queue") == "photos"
    }
    [rule] = read("extras/prometheus-adapter.yaml")["rules"]["custom"]
    asked = re.findall(r"(likeness_\w+)\{queue=\"photos\"", rule["seriesQuery"] + rule["metricsQuery"])
    assert set(asked) == {"likeness_queue_wait_seconds_count", "likeness_queue_wait_seconds_sum"}
    assert set(asked) <= set(served)
    [queue_time] = [one["pods"] for one in read("base/hpa.yaml")["spec"]["metrics"] if one["type"] == "Pods"]
    assert queue_time["metric"]["name"] == rule["name"]["as"]


def environment(container: dict[str, Any]) -> dict[str, str | None]:
    return {one["name"]: one.get("value") for one in container["env"]}
