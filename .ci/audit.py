"""Known vulnerabilities of the pinned packages: `make audit`. Exit status 1 if there are any; without a network nothing is checked.

pip-audit looks them up. It runs in its own environment and is not a dependency of this project.
"""

import json
import subprocess
import sys
from pathlib import Path

SKIPPED = "audit skipped: nothing was checked"
UNREACHABLE = ("Could not connect", "ServiceError")  # in pip-audit's output; its exit status is the same as for a vulnerability


def install(folder: Path) -> Path | None:
    """The pip-audit command, installed if necessary; None if it cannot be installed."""
    command = folder / "bin" / "pip-audit"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        words = ["install", "--quiet", "--disable-pip-version-check", "pip-audit"]
        subprocess.run([folder / "bin" / "python", "-m", "pip", *words], check=False, stderr=subprocess.DEVNULL)
    return command if command.exists() else None


def audit(command: Path, pins: Path) -> tuple[list[str], str]:
    """One line per vulnerability of the pinned packages, and a summary.

    Raises:
        SystemExit: if pip-audit fails for another reason than an unreachable list.
    """
    words = ["--requirement", pins, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([command, *words], check=False, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
        if not any(word in done.stderr for word in UNREACHABLE):
            raise SystemExit(f"pip-audit failed: {last}") from None
        return [], f"{SKIPPED}, the list of vulnerabilities cannot be reached ({last})"
    lines = [
        f"{package['name']} {package['version']}: {vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or 'no version yet'}"
        for package in packages
        for vuln in package.get("vulns", ())
    ]
    unknown = sum("skip_reason" in package for package in packages)
    if unknown == len(packages):
        return [], f"{SKIPPED}, the reachable list of vulnerabilities knows none of the {len(packages)} packages"
    return lines, f"{len(packages)} packages looked up, {unknown} of them unknown to the list: {len(lines)} vulnerabilities"


def main(pins: Path, folder: Path) -> None:
    command = install(folder)
    lines, summary = audit(command, pins) if command else ([], f"{SKIPPED}, pip-audit cannot be installed")
    print("\n".join([*lines, summary]))
    sys.exit(bool(lines))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
