"""animus-gateway generate|validate|routes|run SETTINGS.yaml"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from animus_gateway import config, routes, run, settings


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="animus-gateway", description="Writes Envoy's configuration, and runs it.")
    parser.add_argument("command", choices=["generate", "validate", "routes", "run"])
    parser.add_argument("settings", type=Path, help="the settings file, YAML (see animus_gateway/settings.py)")
    given = parser.parse_args(arguments)
    try:
        found = settings.load(given.settings)
        if given.command == "generate":
            print(run.write(found))
        elif given.command == "routes":
            listener = config.bootstrap(found)["static_resources"]["listeners"][0]
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            print(routes.table(manager["route_config"]["virtual_hosts"][0]["routes"]), end="")
        elif given.command == "validate":
            return validate(run.write(found))
        else:
            return run.run(found, run.log_line)
    except (settings.SettingsError, run.EnvoyMissing, OSError, ValueError) as error:
        print(f"animus-gateway: {error}", file=sys.stderr)
        return 1
    return 0


def validate(path: Path) -> int:
    """Asks Envoy itself. Its answer to a bad file is the whole file on one line, so it is cut."""
    done = subprocess.run(
        [run.envoy_path(), "--mode", "validate", "-c", path, "--log-level", "error"], capture_output=True, text=True
    )
    if done.returncode != 0:
        print((done.stderr or done.stdout)[:500], file=sys.stderr)
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
