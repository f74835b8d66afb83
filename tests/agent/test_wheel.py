"""The agent installs alone: what a GPU node receives is small, and holds nothing of the control plane."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 60 * 1000 * 1000
FOREIGN = {"sqlalchemy", "psycopg", "obstore", "alembic", "kubernetes", "cedarpy", "prometheus-client", "python-jose"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of an empty environment into which the agent's wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    sources = [ROOT / "gen" / "python", ROOT / "kit", ROOT / "services" / "agent"]
    for source in sources:
        # From a copy: building in place leaves build/ and *.egg-info behind.
        copy = folder / "source" / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, copy], check=True, timeout=100)
    environment = folder / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    found = next((environment / "lib").glob("python3*")) / "site-packages"
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run(
        [*pip, "install", "--target", found, "--find-links", wheels, *constraints, "animus-agent"],
        check=True,
        timeout=100,
    )
    return found


@pytest.mark.timeout(300)
def test_it_is_small(site: Path) -> None:
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert size < LIMIT_BYTES, f"{size / 1e6:.1f} MB"


def test_nothing_of_the_control_plane_comes_along(site: Path) -> None:
    installed = {path.name.partition("-")[0].lower().replace("_", "-") for path in site.glob("*.dist-info")}
    assert not installed & FOREIGN
    assert {name for name in installed if name.startswith("animus")} == {"animus-api", "animus-kit", "animus-agent"}


def test_every_module_imports_without_them(site: Path) -> None:
    # The probe is a program of its own, which canaries run inside a container.
    program = (
        "import pkgutil, importlib, animus_agent\n"
        "for found in pkgutil.walk_packages(animus_agent.__path__, 'animus_agent.'):\n"
        "    if not found.name.endswith(('__main__', '.testing', '.probe')):\n"
        "        importlib.import_module(found.name)\n"
    )
    python = site.parents[2] / "bin" / "python"
    subprocess.run([python, "-I", "-c", program], check=True, timeout=60)
