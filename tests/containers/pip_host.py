"""How this machine's pip reaches packages, for a pip inside a container: its settings and the files that they name."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

CONFIG = "/etc/pip.conf"


def pip_files(folder: Path) -> dict[Path, str]:
    """What is to be mounted, and where: a pip.conf written to ``folder``, and each file and folder that it names."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    )
    settings = {}
    for line in done.stdout.splitlines():
        # global.cert='…', :env:.cert='…': the environment comes first in the list and wins.
        if found := re.fullmatch(r"(?:global|install|:env:)\.([a-z-]+)='(.*)'", line.strip()):
            settings.setdefault(found[1], found[2].replace("\\n", " "))
    config = folder / "pip.conf"
    config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    mounts = {config: CONFIG}
    for word in " ".join(settings.values()).split():
        # The pages of an index name files beside its folder.
        path = Path(urlsplit(word).path).parent if word.startswith("file:") else Path(word)
        if path.is_absolute() and path.exists():
            mounts[path] = str(path)
    return mounts
