#!/bin/sh
# Runs an experiment and prints its report: what `make demo` does once everything is installed.
# Usage: demo.sh VENV EXPERIMENT RESULTS STARTED   (STARTED: when make began, seconds since the epoch)
# Exits as the run did: 0 all work has an outcome, 1 some trials failed, 2 bad input, 3 resumable, 4 internal.
set -u

venv=$1
experiment=$2
results=$3
make_started=$4
isobench_ray="$venv/bin/isobench-ray"

answer=$(sh "$(dirname "$0")/ensure-bubblewrap.sh" "$venv/.bubblewrap-refused")
echo "$answer" | sed '$d'
set -- run "$experiment" --results "$results"
if [ "$(echo "$answer" | tail -n 1)" = sandbox=none ]; then
    echo "*************************************************************************************"
    echo "*  NO SANDBOX: agents and workloads of this demo run unconfined (sandbox.kind=none).*"
    echo "*  They are this repository's own. Never do this with an agent that you don't trust. *"
    echo "*************************************************************************************"
    set -- "$@" --set sandbox.kind=none
fi

# An interrupt is for the run: it drains, and the report of what there is follows.
trap : INT
run_started=$(date +%s)
echo "\$ $isobench_ray $*"
"$isobench_ray" "$@"
status=$?
run_s=$(($(date +%s) - run_started))
trap - INT

case $status in
    0 | 1 | 3)
        echo
        echo "\$ $isobench_ray report $results"
        "$isobench_ray" report "$results" || [ "$status" -ne 0 ] || status=$?
        ;;
esac

read -r install_s installed_at <"$venv/.installed-core"
when="this time"
[ "$installed_at" -ge "$make_started" ] || when="earlier; not repeated"
echo
echo "Results lie in $results"
echo "Installation: $install_s s ($when)   Run: $run_s s   Exit: $status"
exit "$status"
