#!/usr/bin/env bash
# The experiments on the model that want GPUs, the ones most waited for first:
#
#     bash onerec/bench/two_gpus.sh HOME OUT [NAME ...]
#
# HOME is a folder of datasets and runs (worlds are made there; `beauty` and `kuairand-pure` must be
# at hand for `routers` and `ablation_kuairand`), OUT a folder for the results, NAME one of
# several, lifelong, scaling, ablation_world, ablation_kuairand, routers: by default all, in turn.
# A benchmark that was cut goes on where it was: parts that are done stand in OUT, the runs of
# `several` in HOME. One that fails is told, and the others go on. PYTHON and JOBS (processes at
# once, dealt to all GPUs) may be set.
set -uo pipefail

if [ $# -lt 2 ]; then
  echo "usage: bash $0 HOME OUT [NAME ...]" >&2
  exit 2
fi
home=$1 out=$2
shift 2
all=(several lifelong scaling ablation_world ablation_kuairand routers)
names=("$@")
[ ${#names[@]} -gt 0 ] || names=("${all[@]}")
python=${PYTHON:-python} jobs=${JOBS:-16}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$home" "$out"

# Throughput and curves of one GPU beside two, compiled: the eager steps wait for the host.
several() {
  "$python" -m onerec.bench.several --recipe onerec_0_121b --steps 100 --micro-batches 4 \
    --arms one ddp fsdp regrouped --history 900 \
    --set model.dropout=0 train.batch_size=2048 train.compile=true \
    --home "$home/several" --out "$out/several_compiled.json"
}

# Is the lifelong pathway worth it, by the weight of old interests? Few items, so that a short
# training learns what is recent, and other pathways that are short against the history: else there
# is nothing left for a long one to say (onerec.bench.old_interests).
lifelong() {
  "$python" -m onerec.bench.pathways --experiment lifelong --home "$home" --dataset long_histories \
    --seeds 3 --jobs "$jobs" --out "$out/pathways_lifelong.json" \
    --set train.steps=800 train.batch_size=256 history.short_length=8 history.positive_length=8 \
    history.lifelong_length=128 history.lifelong_limit=8 history.lifelong_queries=32 \
    --world mean_history=1000 days=200 interest_days=4 n_users=2500 n_items=500
}

scaling() {
  [ -d "$home/datasets/large" ] ||
    "$python" -m onerec data get world --name large --set n_users=50000 || return
  # one target a sample, and all that it says: then every target is seen once
  "$python" -m onerec tokenize --run scaling --recipe small --dataset large \
    --set train.targets=1 --set history.event_dropout=0 &&
    "$python" -m onerec.bench.scaling --run scaling --home "$home" --samples 600000 \
      --batch 1024 --jobs "$jobs" --out "$out/scaling.json"
}

ablation() { # DATASET OUT
  "$python" -m onerec.bench.pathways --experiment ablation --home "$home" --dataset "$1" \
    --seeds 3 --jobs "$jobs" --out "$out/$2.json" --set train.steps=800 \
    history.lifelong_length=64 history.lifelong_limit=8 history.lifelong_queries=16
}
ablation_world() { ablation world ablation_world; }
ablation_kuairand() { ablation kuairand-pure ablation_kuairand; }

# RoMA beside router-only tuning, on a log of people; the world's is in results/routers_world.json.
routers() {
  "$python" -m onerec.bench.routers --home "$home" --dataset beauty --recipe beauty \
    --set content.text=hashed train.batch_size=1024 train.steps=1500 model.experts=8 \
    model.active_experts=2 --arms loss_free roma roma_random router_only --seeds 3 \
    --users 4000 --jobs "$jobs" --out "$out/routers_beauty.json"
}

failed=0
for name in "${names[@]}"; do
  if [[ " ${all[*]} " != *" $name "* ]]; then
    echo "no experiment '$name'; there are ${all[*]}" >&2
    exit 2
  fi
done
export ONEREC_HOME=$home
for name in "${names[@]}"; do
  echo "== $name, $(date +%H:%M:%S)"
  "$name" || {
    echo "$name failed: see above; the same call goes on with it" >&2
    failed=1
  }
done
exit "$failed"
