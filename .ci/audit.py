"""Look for known vulnerabilities in the pinned dependencies with pip-audit.

Exit code 0: none is known. 1: some are, and they are listed. 2: no result, because nobody could be asked; pip-audit
itself ends with 1 in both of the latter cases, which a job that runs it at night would take for a finding.
"""

import argparse
import json
import subprocess
import sys


def main() -> int:
    """Ask PyPI, or a server of the OSV protocol, about every pin of a requirements file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requirements", nargs="?", default="constraints.txt")
    parser.add_argument("--osv", help="ask this OSV server (its /v1/query) instead of pypi.org")
    given = parser.parse_args()
    command = [sys.executable, "-m", "pip_audit", "--requirement", given.requirements, "--disable-pip", "--no-deps"]
    command += ["--strict", "--progress-spinner", "off", "--format", "json"]
    command += ["--vulnerability-service", "osv", "--osv-url", given.osv] if given.osv else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return explain(given.osv or "pypi.org", done.stderr)
    return report(found)


def explain(asked: str, stderr: str) -> int:
    """Say why there is no result, and what to do."""
    last = (stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    sys.stderr.write(
        f"No result: {asked} did not answer for every pin. The audit needs a network from which pypi.org's JSON API"
        f" can be reached (an index of packages alone is not enough), or OSV=<address of an OSV server>.\n{last}\n"
    )
    return 2


def report(dependencies: list) -> int:
    """List what is known of each dependency."""
    faults = [(one["name"], one["version"], fault) for one in dependencies for fault in one["vulns"]]
    for name, version, fault in faults:
        cure = f"fixed in {', '.join(fault['fix_versions'])}" if fault["fix_versions"] else "no version fixes it"
        sys.stdout.write(f"{name} {version}: {fault['id']}, {cure}: {fault['description'][:200]}\n")
    sys.stdout.write(f"{len(dependencies)} pins, {len(faults)} known vulnerabilities\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
