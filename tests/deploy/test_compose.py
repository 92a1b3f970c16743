"""docker-compose.yml and what it mounts: every service is closed up, and every file that it names is there."""

import ipaddress
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def default(text: str) -> str:
    """With the value of each variable that is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_closed_up(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["profiles"], "nothing starts that was not asked for"
    for port in service.get("ports", []):
        assert ipaddress.ip_address(default(port).split(":")[0]).is_loopback, port


def test_images_are_pinned_and_built_from_targets_that_exist() -> None:
    targets = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    for name, service in SERVICES.items():
        if "build" in service:
            assert service["build"]["target"] == ("cpu" if name == "replica" else name)
            assert service["build"]["target"] in targets
        else:
            assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-alpine|-pg18-trixie)?", service["image"])
    assert targets[-1] == "cpu", "what is built where no target is named"
    assert re.search(r"^ARG BASE_IMAGE=python:\d+\.\d+\.\d+-slim-bookworm$", DOCKERFILE, re.M)


def test_the_gpu_is_reserved_and_must_be_used() -> None:
    [device] = SERVICES["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert default(SERVICES["gpu"]["environment"]["LIKENESS_PROVIDER"]) == "cuda"
    assert "reservations" not in SERVICES["cpu"]["deploy"]["resources"]


def test_whatever_is_mounted_is_there_and_secrets_are_in_no_repository() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], mount
        for secret in service.get("secrets", []):
            path = COMPOSE["secrets"][secret]["file"]
            ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False)
            assert ignored.returncode in (0, 128), f"{path} is not ignored"  # 128: no repository


def test_prometheus_asks_who_answers_with_the_key_that_is_mounted() -> None:
    config = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text(encoding="utf-8"))
    [job] = config["scrape_configs"]
    [found] = job["dns_sd_configs"]
    for name in ("cpu", "gpu", "replica"):
        assert found["names"][0] in SERVICES[name]["networks"]["default"]["aliases"]
    for name in ("cpu", "gpu"):
        assert default(SERVICES[name]["ports"][0]).endswith(f":{found['port']}")
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{SERVICES['prometheus']['secrets'][0]}"
    source = yaml.safe_load((ROOT / "deploy/monitoring/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def test_a_replica_keeps_nothing_and_is_reached_through_the_balancer_alone() -> None:
    replica, postgres = SERVICES["replica"], SERVICES["postgres"]
    assert "volumes" not in replica
    assert "ports" not in replica
    assert "ports" not in postgres
    assert [mount.split(":")[0] for mount in replica["tmpfs"]] == ["/data", "/tmp"]
    assert COMPOSE["networks"]["store"]["internal"] is True
    assert postgres["networks"] == ["store"]
    at_store = {name for name, service in SERVICES.items() if "store" in service.get("networks", ())}
    assert at_store == {"replica", "postgres"}
    balancer = (ROOT / "deploy/cluster/haproxy.cfg").read_text(encoding="utf-8")
    assert re.search(r"^ +server-template \S+ \d+ likeness:8000 ", balancer, re.M)
    assert "uri /v1/health/ready" in balancer


def test_no_password_and_no_key_is_in_the_files_of_the_cluster() -> None:
    environment = {**SERVICES["replica"]["environment"], **SERVICES["postgres"]["environment"]}
    assert default(environment["LIKENESS_DATABASE_URL"]) == "postgresql://likeness@postgres/likeness"
    for name in ("LIKENESS_DATABASE_PASSWORD_FILE", "POSTGRES_PASSWORD_FILE"):
        assert environment[name] == "/run/secrets/database_password"
    assert environment["LIKENESS_MASTER_KEY_COMMAND"] == "cat /run/secrets/master_key"
    assert "POSTGRES_PASSWORD" not in environment
    assert "POSTGRES_HOST_AUTH_METHOD" not in environment


def test_a_replica_drains_for_longer_than_the_balancer_takes_to_see_it() -> None:
    balancer = (ROOT / "deploy/cluster/haproxy.cfg").read_text(encoding="utf-8")
    found = re.search(r"check inter (\d+)s fastinter (\d+)ms .* fall (\d+)", balancer)
    assert found
    seen = int(found[1]) + int(found[2]) / 1000 * (int(found[3]) - 1)
    drain = float(SERVICES["replica"]["environment"]["LIKENESS_DRAIN_S"])
    assert drain > 2 * seen
    for name in ("replica", "balancer"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain + 30


def test_what_the_image_is_made_of_is_not_left_out_of_the_context() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert "service" in packages
    for copied in (*packages, "requirements", "pyproject.toml", project["project"]["readme"], "deploy/*.sh"):
        assert f"!{copied}" in kept
    assert "*" in kept, "all else stays out: data folders above all"
    for script in re.findall(r"deploy/\w+\.sh", DOCKERFILE):
        assert (ROOT / script).is_file()
