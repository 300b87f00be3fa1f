#!/usr/bin/env bash
# Installs what the tests need, in the versions that the lock files beside this script pin: real MCP servers, the Inspector
# and the conformance suite (npm), Node 22 (npm), and the Python MCP client (pip, in a virtual environment). Everything is
# installed into this directory. With the argument `lint`, it installs only cargo-deny, which `make lint` needs.
# As root on Debian or Ubuntu, it also installs the system packages that are missing. For any other user, it names them.
# A part is skipped while its lock file, this script and its tool stay the same, so a second run costs nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"

# Two runs at the same time must not install into the same directory. The lock is released when this process ends.
if command -v flock >/dev/null; then
  exec 9<"$here"
  flock 9
fi

say() { printf 'kit: %s\n' "$*"; }
die() { printf 'kit: %s\n' "$*" >&2; exit 1; }

# need COMMAND PACKAGE…: makes sure that the command exists; if it does not, installs its Debian packages.
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return 0
  packages "$command is missing" "$@"
  command -v "$command" >/dev/null || die "$command is still missing after the installation of $*"
}

# packages REASON PACKAGE…: installs the Debian packages as root; for any other user, it fails and names them.
packages() {
  local why=$1
  shift
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    die "$why. Install it and run this script again. On Debian: sudo apt-get install $*"
  fi
  say "$why: installing the Debian packages $*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# stamp TOOL FILE…: prints a checksum that changes when the version of the tool, one of the files or this script changes.
stamp() {
  local tool=$1
  shift
  { "$tool" --version; cat "$@" "$here/install.sh"; } | sha256sum | cut -d ' ' -f 1
}

# fresh DIRECTORY STAMP: succeeds if the directory was installed with this stamp. done_with records the stamp.
fresh() { [ "$(cat "$1/.linchpin-kit" 2>/dev/null)" = "$2" ]; }
done_with() { printf '%s\n' "$2" >"$1/.linchpin-kit"; }

# npm_part DIRECTORY WHAT: runs `npm ci`, without the install scripts of the packages.
npm_part() {
  local dir=$1 what=$2 want
  want=$(stamp node "$dir/package.json" "$dir/package-lock.json")
  fresh "$dir/node_modules" "$want" && return 0
  say "installing $what (npm ci)"
  (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  done_with "$dir/node_modules" "$want"
}

# python_part DIRECTORY WHAT: installs DIRECTORY/requirements.txt into the virtual environment DIRECTORY/.venv.
python_part() {
  local dir=$1 what=$2 want
  want=$(stamp "$python" "$dir/requirements.txt")
  fresh "$dir/.venv" "$want" && return 0
  "$python" -c 'import ensurepip, venv' 2>/dev/null || packages "Python's venv module is missing" python3-venv
  say "installing $what (pip)"
  rm -rf "$dir/.venv"
  "$python" -m venv "$dir/.venv"
  "$dir/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$dir/requirements.txt"
  done_with "$dir/.venv" "$want"
}

find_python() {
  python=$(command -v python3.11 || command -v python3 || true)
  if [ -z "$python" ]; then
    packages "Python 3.11 is missing" python3 python3-venv
    python=$(command -v python3)
  fi
  at_least "$("$python" -c 'import platform; print(platform.python_version())')" 3.11 ||
    die "Python 3.11 or newer is needed; the version found is $("$python" --version)"
}

if [ "${1-}" = lint ]; then
  find_python
  python_part lint "cargo-deny"
  exit 0
fi

need cc gcc libc6-dev
# The scenarios in network namespaces need unshare, nft, ip and ss.
PATH=$PATH:/usr/sbin:/sbin
need unshare util-linux
need nft nftables
need ip iproute2
need ss iproute2
need node nodejs
need npm npm
at_least "$(node --version | tr -d v)" 20 || die "Node 20 or newer is needed; the version found is $(node --version)"
find_python

npm_part . "the MCP servers, the Inspector and the conformance suite"
npm_part node22 "Node 22"
python_part . "the Python MCP client"
say "ready"
