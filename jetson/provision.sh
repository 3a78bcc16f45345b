#!/bin/sh
# Makes a board ready for its agent: user, virtual environment, configuration, systemd unit. Safe to run again: what is
# there already stays, /etc/edgesim/agent.yaml above all; the wheels are installed and the unit is written anew.
set -eu

usage() {
    cat <<'TEXT'
usage: provision.sh [--wheel FILE]... [--no-install] [--python PYTHON] [--root DIR] [--dry-run]

  --wheel FILE      install this wheel, and what it depends on; torch's own may come before
  --no-install      leave the virtual environment alone
  --python PYTHON   interpreter of the virtual environment, 3.10 or later (default: python3)
  --root DIR        prepare a system below DIR (an image): no account is made, nothing is started
  --dry-run         print what would be done

As root, unless with --root or --dry-run. pip follows its own variables (PIP_NO_INDEX, PIP_FIND_LINKS, ...).
TEXT
}

refuse() {
    echo "provision.sh: $1" >&2
    exit 2
}

root='' python=python3 install=yes dry=no wheels=''
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

while [ $# -gt 0 ]; do
    case $1 in
    --wheel | --python | --root)
        [ $# -ge 2 ] || refuse "$1: found nothing, allowed a value"
        case $1 in
        --wheel)
            [ -f "$2" ] || refuse "--wheel: found $2, allowed a file"
            # Kept as one word a line: names of wheels hold no line breaks.
            wheels="$wheels$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
"
            ;;
        --python) python=$2 ;;
        --root)
            [ -d "$2" ] || refuse "--root: found $2, allowed a folder"
            root=$(CDPATH='' cd -- "$2" && pwd)
            ;;
        esac
        shift 2
        ;;
    --no-install) install=no && shift ;;
    --dry-run) dry=yes && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && refuse "found $1, allowed the options above" ;;
    esac
done

[ "$install" = no ] || [ -n "$wheels" ] || refuse "found no wheel, allowed --wheel FILE or --no-install"
[ -n "$root" ] || [ "$dry" = yes ] || [ "$(id -u)" -eq 0 ] || refuse "found user $(id -un), allowed root"

venv=$root/opt/edgesim
configuration=$root/etc/edgesim/agent.yaml
unit=$root/etc/systemd/system/edgesim-agent.service

run() {
    printf '+'
    printf ' %s' "$@"
    echo
    [ "$dry" = yes ] || "$@"
}

# A file is replaced only by one that differs, at once and whole.
put() { # FROM TO MODE
    if [ -f "$2" ] && cmp -s -- "$1" "$2"; then
        return
    fi
    run install -m "$3" -- "$1" "$2.new"
    run mv -f -- "$2.new" "$2"
}

folder() { # DIR
    [ -d "$1" ] || run install -d -m 0755 -- "$1"
}

if [ -z "$root" ]; then
    for group in video render edgesim; do
        getent group "$group" >/dev/null || run groupadd --system "$group"
    done
    getent passwd edgesim >/dev/null ||
        run useradd --system --gid edgesim --no-create-home --home-dir /var/lib/edgesim --shell /usr/sbin/nologin edgesim
    run usermod --append --groups video,render edgesim
fi

if [ "$install" = yes ]; then
    folder "$root/opt"
    # What the board's image brings for its GPU, such as NVIDIA's torch, stays in reach.
    [ -x "$venv/bin/python" ] || run "$python" -m venv --system-site-packages "$venv"
    old_ifs=$IFS
    IFS='
'
    # shellcheck disable=SC2086 # one word a line
    run "$venv/bin/python" -m pip install --disable-pip-version-check --upgrade $wheels
    IFS=$old_ifs
fi

folder "$root/etc/edgesim"
[ -e "$configuration" ] || put "$here/agent.yaml" "$configuration" 0644

folder "$root/etc/systemd/system"
put "$here/edgesim-agent.service" "$unit" 0644

if command -v systemctl >/dev/null; then
    if [ -n "$root" ]; then
        run systemctl --root="$root" --quiet enable edgesim-agent.service
    else
        run systemctl daemon-reload
        run systemctl --quiet enable edgesim-agent.service
        # An agent that runs goes on, with whatever job it has: it is restarted by hand.
        [ ! -x "$venv/bin/node-agent" ] || run systemctl start edgesim-agent.service
    fi
else
    echo "no systemctl here: edgesim-agent.service is in place, but not enabled"
fi
