#!/usr/bin/env bash
# Makes the Python environment that the Makefile's targets run in: environment.sh FOLDER PYTHON TORCH EXTRAS
#   PYTHON: an interpreter, or "" for the first of python3.11, 3.12, 3.13 that runs
#   TORCH:  cpu | cuNNN | pypi | skip (the Makefile says what each means)
#   EXTRAS: extras of pyproject.toml, or ""
# PyTorch always goes in first and alone, so that no other package's requirement can pull a CUDA build.
set -euo pipefail
folder=$1 python=$2 torch=$3 extras=$4
TORCH_VERSION=2.13.0
PYTORCH_INDEX=https://download.pytorch.org/whl
AUTOAWQ_VERSION=0.2.9

fail() {
  echo "sixfold: $1" >&2
  exit 1
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  if [ -n "$python" ]; then
    version=$("$python" --version 2>&1) || fail "PYTHON=$python does not run; name an interpreter of Python 3.11, 3.12 or 3.13."
    supported "$python" || fail "PYTHON=$python is $version; sixfold runs on Python 3.11, 3.12 and 3.13."
    return
  fi
  for python in python3.11 python3.12 python3.13 python3; do
    if supported "$python"; then return; fi
  done
  fail "no Python 3.11, 3.12 or 3.13 found; install one, or name it with PYTHON=/path/to/python3.12."
}

# Installs exactly one version of PyTorch from where the choice says, quietly trying what is near first.
install_torch() {
  case $torch in
    pypi) pip install "torch==$TORCH_VERSION" ;;
    cpu)
      # A wheel folder or mirror may carry the CPU build; PyPI itself does not.
      if pip install --quiet "torch==$TORCH_VERSION+cpu" 2>/dev/null; then return; fi
      if pip install --retries 1 "torch==$TORCH_VERSION+cpu" --extra-index-url "$PYTORCH_INDEX/cpu"; then return; fi
      echo "sixfold: no CPU build of PyTorch $TORCH_VERSION could be had from $PYTORCH_INDEX/cpu; taking PyPI's (larger, with CUDA)." >&2
      pip install "torch==$TORCH_VERSION"
      ;;
    cu*) pip install "torch==$TORCH_VERSION+$torch" --extra-index-url "$PYTORCH_INDEX/$torch" ;;
    *) fail "TORCH=$torch is no choice; take cpu, pypi, skip, or a CUDA build such as cu130." ;;
  esac
}

pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

made_here=
if [ ! -x "$folder/bin/python" ]; then
  made_here=yes
  find_python
  echo "sixfold: making $folder with $("$python" --version 2>&1) (a few minutes, once)"
  # With TORCH=skip the interpreter's own PyTorch must be visible inside.
  options=$([ "$torch" = skip ] && echo --system-site-packages || true)
  if ! "$python" -m venv $options "$folder"; then
    rm -rf "$folder"
    fail "$python cannot make a virtual environment; on Debian and Ubuntu install its venv package (python3-venv)."
  fi
elif [ -n "$python" ]; then
  asked=$("$python" -c 'import sys; print(*sys.version_info[:2])') || fail "PYTHON=$python does not run."
  made=$("$folder/bin/python" -c 'import sys; print(*sys.version_info[:2])')
  [ "$asked" = "$made" ] || fail "$folder was made with another Python (${made/ /.}); run \`make clean-env\` first."
fi

if [ "$torch" = skip ]; then
  "$folder/bin/python" -c 'import torch' 2>/dev/null || {
    if [ "$made_here" ]; then rm -rf "$folder"; fi
    fail "TORCH=skip, but the chosen Python has no PyTorch; install it there, or leave TORCH out."
  }
else
  install_torch
fi
# Whatever is there now is there to stay: a requirement that wants another PyTorch fails instead of replacing it.
constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
"$folder/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$constraint"
pip install --quiet --constraint "$constraint" --editable ".${extras:+[$extras]}"
if [[ ",$extras," == *,dev,* ]]; then
  # The reference for AWQ's layout. Deprecated, and its declared dependencies (triton, zstandard) are not needed for that.
  pip install --quiet --no-deps "autoawq==$AUTOAWQ_VERSION"
fi
echo "$torch" >"$folder/torch-choice"
