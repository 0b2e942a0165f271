"""Builds the environment from requirements.lock: by uv, or by pip where uv cannot be had.

uv is one wheel, pinned by hash in the lock like everything else, and comes from where pip gets its packages.
Needs nothing but Python and its venv module; `make setup` calls it.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
UV_NAMES = {  # what uv calls the settings of pip
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}


def main(folder: Path) -> None:
    """Make the environment in `folder`; one that is there is brought up to the lock."""
    if not (folder / "bin/python").exists():
        run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin/python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if get_uv(pip):
        settings = uv_settings(python) | {"UV_PYTHON": python}
        install = [str(folder / "bin/uv"), "pip", "install", "-q"]
    else:
        say("uv cannot be had here; pip builds the environment, which takes minutes")
        settings, install = {}, pip
    run(*install, "--require-hashes", "-r", str(LOCK), **settings)
    run(*install, "--no-deps", "--no-build-isolation", "-e", str(ROOT), **settings)


def get_uv(pip: list[str]) -> bool:
    """Install the uv that the lock names, and return whether that worked."""
    pinned = re.search(r"^uv==.*\\\n(?:    --hash=.*\n)+", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned, f"{LOCK} has no uv"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pinned[0])
        file.flush()
        command = [*pip, "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", file.name]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0  # noqa: S603


def uv_settings(python: str) -> dict[str, str]:
    """Return pip's settings as environment variables of uv; those that the user has set for uv win."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    found = {}
    for section in ("global", "install", ":env:"):  # the later one wins, as with pip
        for name, value in re.findall(rf"^{section}\.([a-z-]+)='(.*)'$", listed, re.MULTILINE):
            if name in UV_NAMES:
                values = value.replace("\\n", " ").split()
                found[UV_NAMES[name]] = ("," if name == "find-links" else " ").join(values)
    # The hashes say which file is meant, so it does not matter which index has it.
    found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in found.items() if name not in os.environ}


def run(*command: str, **settings: str) -> None:
    """Run a command; end with its exit code if it fails."""
    done = subprocess.run(command, env=os.environ | settings, stdout=sys.stderr, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode)


def say(text: str) -> None:
    """Tell the user something while the environment is built."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
