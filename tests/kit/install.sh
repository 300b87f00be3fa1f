#!/usr/bin/env bash
# Installs what the scenarios need: real MCP servers, the inspector and the conformance suite (npm), Node 22, and the Python
# MCP client in a virtual environment. Everything is pinned by the lock files beside this script and lands beside them.
# A part whose lock file did not change since it was installed is left alone, so running this again costs nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"

# Two runs at once wait for each other; the lock goes with this process.
if command -v flock >/dev/null; then
  exec 9<"$here"
  flock 9
fi

say() { printf 'kit: %s\n' "$*"; }
die() { printf 'kit: %s\n' "$*" >&2; exit 1; }

# need COMMAND PACKAGE…: the command, else its Debian packages, which are installed only by root.
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return 0
  packages "$command is missing" "$@"
  command -v "$command" >/dev/null || die "$command is still missing after installing $*"
}

packages() {
  local why=$1
  shift
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    die "$why. Install it and run this again; on Debian: sudo apt-get install $*"
  fi
  say "$why: installing the Debian packages $*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# stamp FILE…: one line that changes when an input, this script or a tool changes.
stamp() { { cat "$@" "$here/install.sh"; node --version; "$python" --version; } | sha256sum | cut -d ' ' -f 1; }

# fresh DIRECTORY STAMP / done_with DIRECTORY STAMP: whether a part is as its inputs want it; notes that it is.
fresh() { [ "$(cat "$1/.linchpin-kit" 2>/dev/null)" = "$2" ]; }
done_with() { printf '%s\n' "$2" >"$1/.linchpin-kit"; }

# npm_part DIRECTORY WHAT: `npm ci`, without running anybody's install script.
npm_part() {
  local dir=$1 what=$2 want
  want=$(stamp "$dir/package.json" "$dir/package-lock.json")
  fresh "$dir/node_modules" "$want" && return 0
  say "installing $what (npm ci)"
  (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  done_with "$dir/node_modules" "$want"
}

python_part() {
  local want
  want=$(stamp requirements.txt)
  fresh .venv "$want" && return 0
  "$python" -c 'import ensurepip, venv' 2>/dev/null || packages "Python's venv is missing" python3-venv
  say "installing the Python MCP client (pip)"
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
  done_with .venv "$want"
}

need cc gcc libc6-dev
# For the scenarios in network namespaces.
PATH=$PATH:/usr/sbin:/sbin
need unshare util-linux
need nft nftables
need ip iproute2
need ss iproute2
need node nodejs
need npm npm
at_least "$(node --version | tr -d v)" 20 || die "Node 20 or newer is needed, found $(node --version)"

python=$(command -v python3.11 || command -v python3 || true)
if [ -z "$python" ]; then
  packages "Python 3.11 is missing" python3 python3-venv
  python=$(command -v python3)
fi
at_least "$("$python" -c 'import platform; print(platform.python_version())')" 3.11 ||
  die "Python 3.11 or newer is needed, found $("$python" --version)"

npm_part . "the MCP servers, the inspector and the conformance suite"
npm_part node22 "Node 22"
python_part
say "ready"
