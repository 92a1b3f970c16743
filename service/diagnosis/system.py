"""All checks of an install, in the order in which one thing needs another."""

from collections.abc import Mapping
from typing import Any

from service.diagnosis import bundle, database, device, folder, install, machine
from service.diagnosis.finding import Finding, guarded

_OF_THE_SETTINGS = {
    "GPU": device.gpu,
    "provider": device.provider,
    "bundle": bundle.bundle,
    "networks": device.networks,
    "data folder": folder.data_folder,
    "database": database.database,
    "keys": folder.keys,
    "clock": folder.clock,
    "cores": machine.cores,
    "memory": machine.memory,
    "tuning": machine.tuning,
    "kernel": machine.kernel,
    "port": machine.port,
    "traces": machine.traces,
}


def diagnose(flags: Mapping[str, Any]) -> list[Finding]:
    """Look at everything that ``likeness serve`` with these settings would need; nothing is changed."""
    findings = [
        *guarded("python", install.python),
        *guarded("packages", install.packages),
        *guarded("wheels", install.rivals),
        *guarded("modules", install.modules),
    ]
    try:
        from service.settings import read_settings

        settings = read_settings(**flags)
    except Exception as error:
        # A value that is wrong, or a package that reading them needs.
        return [*findings, Finding("settings", "fail", str(error), "All else depends on them.")]
    findings.append(Finding("settings", "ok", "flags, LIKENESS_* and likeness.toml can be read"))
    for name, check in _OF_THE_SETTINGS.items():
        findings += guarded(name, lambda check=check: check(settings))  # type: ignore[misc]
    return findings
