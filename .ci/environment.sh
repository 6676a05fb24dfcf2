# Sourced by .ci/test and .ci/run: what is missing on the machine, and virtual environments.
# shellcheck shell=bash

# Tests start the command some thousand times: from bytecode, as it runs where it is installed. Half of the gate's time.
unset PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE=1

have() { command -v "$1" >/dev/null 2>&1; }

# uv may be a shim that stands for nothing: ask it
have_uv() { uv --version >/dev/null 2>&1; }

refresh_apt() {
  [[ -z ${apt_is_fresh-} ]] || return 0
  apt-get -qq update
  apt_is_fresh=1
}

# install PACKAGE WHY: from Debian, as root; otherwise says what to do
install() {
  if ! have apt-get || ((EUID)); then
    echo "missing: $2; on Debian or Proxmox, as root: apt-get install $1" >&2
    return 1
  fi
  echo "installing $1: $2"
  refresh_apt
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 install "$1" >/dev/null
}

# The programs that the tests call. Nothing needs a compiler: Python packages are wheels, or pure Python.
install_missing() {
  have mount || install mount "the tests mount in a namespace of their own"
  have unshare || install util-linux "unshare makes that namespace"
  have findmnt || install util-linux "findmnt is a second opinion on the mount table"
  have curl || install curl "the README's examples of the service's API are run with it"
  # Only root can build and boot the labs (tests/system), and mount for the tests of the page.
  if ! ((EUID)); then
    have fusermount3 || install fuse3 "alarms advise it, and tests do as they are told"
    have mmdebstrap || install mmdebstrap "builds the labs' Debian"
    have mke2fs || install e2fsprogs "makes the labs' disk"
    unpack prometheus "scrapes the service, and tries the alert rules"
    unpack prometheus-alertmanager "makes one message of what many nodes see"
    have chromium || install chromium "the status page is tested in it, with real mounts"
  fi
}

# unpack PACKAGE WHY: Debian's programs without installing them, which would start them as services on a machine with
# systemd; into $PROMETHEUS_CACHE (/var/cache/mountwatch-prometheus)
unpack() {
  local cache=${PROMETHEUS_CACHE:-/var/cache/mountwatch-prometheus} new
  [[ ! -x $cache/$1/usr/bin/$1 ]] || return 0
  if ! have apt-get || ((EUID)); then
    echo "missing: $2; on Debian or Proxmox, as root" >&2
    return 1
  fi
  echo "unpacking $1: $2"
  refresh_apt
  mkdir -p "$cache" && new=$(mktemp -d "$cache/.new-XXXXXX") &&
    (cd "$new" && apt-get -qq -o APT::Sandbox::User=root download "$1" >/dev/null && dpkg -x ./*.deb tree) &&
    rm -rf "${cache:?}/$1" && mv "$new/tree" "$cache/$1"
  rm -rf "$new"
  [[ -x $cache/$1/usr/bin/$1 ]]
}

# make_venv PYTHON DIRECTORY REQUIREMENTS WHAT...: what is "." (as a user gets it) or "--editable ."
# With $venv_without_pip the interpreter's own pip installs, where it has one: that saves six seconds of a processor.
make_venv() {
  local python=$1 venv=$2 requirements=$3
  shift 3
  if have_uv; then
    # a directory is cached by its pyproject.toml alone, hence --refresh-package
    uv venv --quiet --allow-existing --python "$python" "$venv" &&
      uv pip install --quiet --python "$venv/bin/python" --require-hashes -r "$requirements" &&
      uv pip install --quiet --python "$venv/bin/python" --no-deps --refresh-package mountwatch "$@" &&
      uv pip check --quiet --python "$venv/bin/python"
  else
    local pip=("$venv/bin/python" -m pip) bare=()
    if [[ -n ${venv_without_pip-} ]] && "$python" -m pip --version >/dev/null 2>&1; then
      pip=("$python" -m pip --python "$venv/bin/python") bare=(--without-pip)
    else
      "$python" -c 'import ensurepip' 2>/dev/null || install python3-venv "python3 -m venv needs ensurepip"
    fi
    pip+=(--quiet --disable-pip-version-check)
    # Only what the tests run a thousand times is compiled beforehand; the rest where it is imported.
    "$python" -m venv "${bare[@]}" "$venv" &&
      "${pip[@]}" install --no-compile --require-hashes -r "$requirements" &&
      "${pip[@]}" install --no-compile --no-deps "$@" &&
      "${pip[@]}" check &&
      "$venv/bin/python" -m compileall -qq -x '/(mypy|mypyc|pygments)/' "$venv/lib"
  fi
}
