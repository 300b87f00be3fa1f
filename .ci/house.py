"""Checks of the house that no other tool makes: licences of what we depend on, where locks say things come from, lengths,
and that the tests which docs/faults.md names are there.

Licences: every crate of Cargo.lock must offer a licence of ALLOWED (an SPDX expression over it). Works offline once the
crates are fetched. Advisories are not checked here: that needs the RustSec database, see `cargo audit`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib",
}
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
MAX_LINES = 400


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def allowed(expression):
    """Whether an SPDX expression (OR, AND, WITH, parentheses; `/` is an old OR) can be met from ALLOWED."""
    text = re.sub(r"(\S+) WITH (\S+)", r"\1_WITH_\2", expression.replace("/", " OR "))
    tokens = re.findall(r"[()]|[^\s()]+", text)

    def any_of():
        met = all_of()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = all_of() or met
        return met

    def all_of():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one():
        token = tokens.pop(0)
        if token == "(":
            met = any_of()
            tokens.pop(0)
            return met
        return token.replace("_WITH_", " WITH ") in ALLOWED

    return any_of()


def crates():
    for package in json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))["packages"]:
        label = f"{package['name']} {package['version']}"
        if not allowed(package["license"] or "none"):
            yield f"{label}: licence {package['license']!r} is not allowed"
        if package["source"] not in (None, REGISTRY):
            yield f"{label}: comes from {package['source']}, not from crates.io"


def npm_locks():
    for path in tracked("*package-lock.json"):
        for name, package in json.loads(path.read_text())["packages"].items():
            resolved = package.get("resolved", "https://registry.npmjs.org/")
            if not resolved.startswith("https://registry.npmjs.org/"):
                yield f"{path}: {name} comes from {resolved}"
            if name and "integrity" not in package:
                yield f"{path}: {name} has no integrity"


def lengths():
    for path in tracked("*.rs"):
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES:
            yield f"{path}: {lines} lines, more than {MAX_LINES}"


def fault_table():
    source = "\n".join(path.read_text() for path in tracked("*.rs"))
    known = set(re.findall(r"\b(?:fn|mod) (\w+)", source))
    rows = [line for line in Path("docs/faults.md").read_text().splitlines() if re.match(r"\| \d", line)]
    numbers = [int(re.match(r"\| (\d+)", row)[1]) for row in rows]
    if numbers != sorted(numbers):
        yield "docs/faults.md: the rows are not in order"
    for row in rows:
        tests = re.findall(r"`([^`\s]*(?: [^`\s]*)?::[^`\s]+)`", row.rsplit("|", 2)[1])
        if not tests:
            yield f"docs/faults.md: no test in {row[:60]}…"
        for test in tests:
            if test.rsplit("::", 1)[1] not in known:
                yield f"docs/faults.md: there is no {test}"


def tracked(pattern):
    return [path for name in output("git", "ls-files", "-z", pattern).split("\0") if name and (path := Path(name)).is_file()]


def main():
    faults = 0
    for check in (crates, npm_locks, lengths, fault_table):
        found = list(check())
        faults += len(found)
        print(f"{check.__name__}: {'ok' if not found else len(found)}")
        for fault in found:
            print(f"  {fault}")
    print("advisories: not checked (needs the RustSec database; run `cargo audit` where it can be fetched)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
