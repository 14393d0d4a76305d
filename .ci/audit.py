"""Known vulnerabilities among the pinned versions: `make audit`. Exit status 1 if there are any; without a network nothing is checked.

pip-audit asks for each of them, from an environment of its own: it is no dependency of this project.
"""

import json
import subprocess
import sys
from pathlib import Path

SKIPPED = "audit skipped: nothing was checked"
UNREACHABLE = ("Could not connect", "ServiceError")  # what pip-audit says; its exit status is the same as for a vulnerability


def install(folder: Path) -> Path | None:
    """pip-audit's command, installed if it is not there yet; None where it cannot be."""
    command = folder / "bin" / "pip-audit"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        words = ["install", "--quiet", "--disable-pip-version-check", "pip-audit"]
        subprocess.run([folder / "bin" / "python", "-m", "pip", *words], check=False, stderr=subprocess.DEVNULL)
    return command if command.exists() else None


def audit(command: Path, pins: Path) -> tuple[list[str], str]:
    """A line for each vulnerability of the pins, and what was done.

    Raises:
        SystemExit: if pip-audit failed for another reason than that nobody answered.
    """
    words = ["--requirement", pins, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([command, *words], check=False, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
        if not any(word in done.stderr for word in UNREACHABLE):
            raise SystemExit(f"pip-audit failed: {last}") from None
        return [], f"{SKIPPED}, the list of vulnerabilities cannot be reached ({last})"
    lines = [
        f"{package['name']} {package['version']}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'no version yet'}"
        for package in found
        for each in package.get("vulns", ())
    ]
    unknown = sum("skip_reason" in package for package in found)
    if unknown == len(found):
        return [], f"{SKIPPED}, the list of vulnerabilities that answers here knows none of the {len(found)} packages"
    return lines, f"{len(found)} packages looked up, {unknown} of them unknown to the list: {len(lines)} vulnerabilities"


def main(pins: Path, folder: Path) -> None:
    command = install(folder)
    lines, told = audit(command, pins) if command else ([], f"{SKIPPED}, pip-audit cannot be installed here")
    print("\n".join([*lines, told]))
    sys.exit(bool(lines))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
