"""Checks the house rules that no other tool checks.

- The npm lock files name only the public registry, and every package in them has a checksum.
- No Rust file is longer than 400 lines.
- Every test that docs/faults.md names exists, and the rows of its table are in order.

The crates are checked by cargo-deny (deny.toml).
"""

import json
import re
import subprocess
import sys
from pathlib import Path

NPM_REGISTRY = "https://registry.npmjs.org/"
MAX_LINES = 400


def npm_locks():
    for path in tracked("*package-lock.json"):
        for name, package in json.loads(path.read_text())["packages"].items():
            resolved = package.get("resolved", NPM_REGISTRY)
            if not resolved.startswith(NPM_REGISTRY):
                yield f"{path}: {name} is downloaded from {resolved}"
            if name and "integrity" not in package:
                yield f"{path}: {name} has no checksum (integrity)"


def lengths():
    for path in tracked("*.rs"):
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES:
            yield f"{path}: has {lines} lines; the limit is {MAX_LINES}"


def fault_table():
    source = "\n".join(path.read_text() for path in tracked("*.rs"))
    known = set(re.findall(r"\b(?:fn|mod) (\w+)", source))
    rows = [line for line in Path("docs/faults.md").read_text().splitlines() if re.match(r"\| \d", line)]
    numbers = [int(re.match(r"\| (\d+)", row)[1]) for row in rows]
    if numbers != sorted(numbers):
        yield "docs/faults.md: the rows are not in the order of their numbers"
    for row in rows:
        tests = re.findall(r"`([^`\s]*(?: [^`\s]*)?::[^`\s]+)`", row.rsplit("|", 2)[1])
        if not tests:
            yield f"docs/faults.md: this row names no test: {row[:60]}…"
        for test in tests:
            if test.rsplit("::", 1)[1] not in known:
                yield f"docs/faults.md: the test {test} does not exist"


def tracked(pattern):
    names = subprocess.run(["git", "ls-files", "-z", pattern], check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := Path(name)).is_file()]


def main():
    total = 0
    for check in (npm_locks, lengths, fault_table):
        violations = list(check())
        total += len(violations)
        print(f"{check.__name__}: {'failed' if violations else 'ok'}")
        for violation in violations:
            print(f"  {violation}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
