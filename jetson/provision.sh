#!/bin/sh
# Makes a board ready for its agent: user, virtual environment, configuration, systemd unit. Safe to run again, also
# after a run that failed half-way: what is there already and works stays, /etc/edgesim/agent.yaml above all; the wheels
# are installed and the unit is written anew.
set -eu
umask 022

usage() {
    cat <<'TEXT'
usage: provision.sh [--wheel FILE]... [--no-install] [--python PYTHON] [--root DIR] [--dry-run]

  --wheel FILE      install this wheel, and what it depends on; torch's own may come before
  --no-install      leave the virtual environment alone
  --python PYTHON   interpreter of the virtual environment, 3.10 or later (default: python3); not one in a home folder,
                    which the service does not see
  --root DIR        prepare a system below DIR (an image): nothing is installed from wheels, nothing is started; wheels
                    are installed inside of it, by chroot or when it runs
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

# Scripts of a virtual environment name their interpreter by its whole path, which is another one from outside.
[ -z "$root" ] || [ -z "$wheels" ] || refuse "--wheel: found with --root, allowed inside of that system, by chroot"
[ -z "$root" ] || install=no
[ "$install" = no ] || [ -n "$wheels" ] || refuse "found no wheel, allowed --wheel FILE or --no-install"
[ -n "$root" ] || [ "$dry" = yes ] || [ "$(id -u)" -eq 0 ] || refuse "found user $(id -un), allowed root"
command -v systemd-sysusers >/dev/null || refuse "found no systemd-sysusers, allowed a system with systemd"

venv=$root/opt/edgesim
configuration=$root/etc/edgesim/agent.yaml
account=$root/etc/sysusers.d/edgesim.conf
unit=$root/etc/systemd/system/edgesim-agent.service
changed=no

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
    changed=yes
}

folder() { # DIR
    [ -d "$1" ] || run install -d -m 0755 -- "$1"
}

of_interpreter() { # PYTHON EXPRESSION
    "$1" -I -c "import os, sys; print($2)" 2>/dev/null
}

if [ "$install" = yes ]; then
    known=$(of_interpreter "$python" 'sys.version_info >= (3, 10)') ||
        refuse "--python: found $python, which does not start, allowed an interpreter of Python 3.10 or later"
    [ "$known" = True ] ||
        refuse "--python: found $("$python" --version 2>&1), allowed an interpreter of Python 3.10 or later"
    base=$(of_interpreter "$python" 'os.path.realpath(sys.base_prefix)')
    case $base/ in # as ProtectHome= has it
    /home/* | /root/* | /run/user/*)
        refuse "--python: found $base, which is hidden from the service, allowed an interpreter outside of home folders"
        ;;
    esac
fi

if ! { cmp -s -- "$here/sysusers.conf" "$account" && grep -q '^edgesim:' "$root/etc/passwd"; }; then
    folder "$root/etc/sysusers.d"
    put "$here/sysusers.conf" "$account" 0644
    run systemd-sysusers ${root:+"--root=$root"} edgesim.conf
fi

# Whether the virtual environment was made to its end, by the same interpreter.
sound() {
    same='os.path.realpath(sys.base_prefix), sys.version_info[:2]'
    [ "$(of_interpreter "$venv/bin/python" sys.prefix)" = "$venv" ] &&
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        [ "$(of_interpreter "$venv/bin/python" "$same")" = "$(of_interpreter "$python" "$same")" ]
}

if [ "$install" = yes ]; then
    folder /opt
    into=$venv
    if ! sound; then
        into=$venv.new
        run rm -rf -- "$into"
        # What the board's image brings for its GPU, such as NVIDIA's torch, stays in reach.
        run "$python" -m venv --system-site-packages "$into"
    fi
    set -f
    old_ifs=$IFS
    IFS='
'
    # shellcheck disable=SC2086 # one word a line
    run "$into/bin/python" -m pip install --disable-pip-version-check --upgrade $wheels
    for wheel in $wheels; do
        case ${wheel##*/} in
        edgesim-*) # another build may have the same version
            run "$into/bin/python" -m pip install --disable-pip-version-check --force-reinstall --no-deps "$wheel"
            ;;
        esac
    done
    IFS=$old_ifs
    set +f
    if [ "$into" != "$venv" ]; then
        for file in "$into/pyvenv.cfg" "$into"/bin/*; do
            if [ -f "$file" ] && [ ! -L "$file" ] && grep -qIF -- "$into" "$file"; then
                run sed -i "s|$into|$venv|g" "$file"
            fi
        done
        run rm -rf -- "$venv"
        run mv -- "$into" "$venv"
    fi
    changed=yes
fi

folder "$root/etc/edgesim"
[ -e "$configuration" ] || put "$here/agent.yaml" "$configuration" 0644

folder "$root/etc/systemd/system"
put "$here/edgesim-agent.service" "$unit" 0644

# The agent's own process; nothing where it does not run.
agent() {
    systemctl show --property=MainPID edgesim-agent.service 2>/dev/null | sed -n 's/^MainPID=\([1-9][0-9]*\)$/\1/p'
}

if ! command -v systemctl >/dev/null; then
    echo "no systemctl here: edgesim-agent.service is in place, but not enabled"
elif [ -n "$root" ]; then
    run systemctl --root="$root" --quiet enable edgesim-agent.service
else
    run systemctl daemon-reload
    run systemctl --quiet enable edgesim-agent.service
    if [ "$install" = no ] && [ ! -x "$venv/bin/node-agent" ]; then
        echo "no agent in $venv yet: it is started once it is installed"
    elif [ -z "$(agent)" ]; then
        run systemctl start edgesim-agent.service
    elif [ "$changed" = no ]; then
        echo "the agent runs, and nothing has changed"
    elif [ -n "$(ps -o pid= --ppid "$(agent)")" ]; then
        echo "a job runs: until systemctl restart edgesim-agent, the agent takes no other one"
    else
        run systemctl restart edgesim-agent.service
    fi
fi
