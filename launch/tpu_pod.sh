#!/usr/bin/env bash
# Pretraining on a pod of TPU VMs, on each of which the repository is installed in ~/bertjax with its .venv:
#
#     launch/tpu_pod.sh NAME ZONE --config=configs/bert_base.py --workdir=/shared/base --data.path=...
#
# Runs the same command on every worker; JAX finds the others. After a preemption (143), a lost worker (134, or 137 where
# it was killed) or a lost connection (255) it waits until the pod is there again, and starts again, 99 times at most: the
# run goes on. Of a mistake it ends. A spot pod that was taken away has to be made again, by hand or by a queued resource
# of the same name.
set -u
name=$1 zone=$2
shift 2
printf -v command '%q ' .venv/bin/python train.py --mesh.coordinator=auto "$@"

ready() {
    [ "$(gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)')" = READY ]
}

for ((starts = 1; starts <= 100; starts++)); do
    until ready; do sleep 60; done
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="cd bertjax && $command"
    code=$?
    case $code in
    143 | 134 | 137 | 255) echo "ended with $code: starting again" >&2 ;;
    *) exit $code ;;
    esac
    sleep 30
done
exit $code
