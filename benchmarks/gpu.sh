#!/usr/bin/env bash
# Everything that is to be measured on a GPU, in one command; with --small the same in minutes on a CPU, to try it.
#
#     benchmarks/gpu.sh [--small] [--only PATTERN] [--budget TIME] OUT TEXT VOCAB TASKS
#
# TEXT is what `bertjax prepare` reads, such as .../pretrain/enwiki.jsonl.xz, VOCAB a vocab.txt, TASKS a folder with GLUE's
# SST-2, STS-B and RTE, each with train.tsv and dev.tsv. All that is printed goes to OUT/*.json, of a run its held-out
# figures; OUT/runs has the workdirs. Started again it goes on: what is there is not done again. Needs the extras gpu and
# parity. PATTERN picks by the names of the files, such as 'step-base-*' or '@(prepare|pretraining)'; TIME is the
# pretraining's, 15m by default. Python is that of $PYTHON, or python. On a GPU all takes about an hour.
set -euo pipefail

small='' only='*' budget=15m picked=''
while [[ ${1:-} == --* ]]; do
    case $1 in
        --small) small=yes ;;
        --only) only=${2-} && shift ;;
        --budget) budget=${2-} && shift ;;
        *) set -- ;; # what it is for is said below
    esac
    shift || break
done
if [ $# -ne 4 ]; then
    sed -n '4s/^# *//p' "$0" >&2
    exit 2
fi
for path in "$2" "$3" "$4"; do
    [ -e "$path" ] || { echo "error: there is no $path" >&2; exit 2; }
done
out=$(realpath -m "$1") text=$(realpath "$2") vocab=$(realpath "$3") tasks=$(realpath "$4")
python=${PYTHON:-python}
cd "$(dirname "$0")/.."
mkdir -p "$out/runs"

# measured NAME COMMAND...: the command's standard output is OUT/NAME.json; it is there only if the command succeeded.
measured() {
    local name=$1
    shift
    # shellcheck disable=SC2053 # a pattern
    [[ $name == $only ]] || return 0
    picked=yes
    [ -e "$out/$name.json" ] && return
    echo "== $name (after $SECONDS s)" >&2
    "$@" >"$out/$name.unfinished"
    mv "$out/$name.unfinished" "$out/$name.json"
}

# What is small: the model and the rows, the turns, the run.
if [ "$small" ]; then
    export JAX_PLATFORMS=cpu
    tiny=(--model.layers=1 --model.width=32 --model.heads=2 --model.mlp_width=64 --train.precision=float32)
    compared=(--rounds=1 --turn_seconds=0.01 --against=huggingface --precisions float32 --ways eager)
    ablated=(--rounds=1 --turn_seconds=0.01) techniques=(--only gather)
    packed=(--pairs_per_row=2 --model.attention_dropout=0) kernels=(kernel)
    sizes=(base) lengths=(32)
    run=(--train.steps=20 --train.batch_size=8 --train.eval_every=10 --train.eval_rows=16
        --optimizer.warmup_steps=None --train.profile_from=5 --train.profile_steps=2)
    task=(--train.epochs=1 --train.batch_size=8 --data.seq_len=32 --data.examples=40)
    buckets=(--lengths 8 --batches 1 --repeats 2)
    learned=(STS-B:stsb)
    rows_of() { echo 4; }
else
    tiny=()
    turns=(--rounds=4 --turn_seconds=1) # a GPU's differ by 2 % at most (docs/log.md)
    compared=("${turns[@]}" --against=huggingface --precisions bfloat16)
    ablated=("${turns[@]}") techniques=()
    if [ "$(nproc)" -ge 12 ]; then # what is compiled side by side is sooner done
        compared+=(--at_once=True) ablated+=(--at_once=True)
    fi
    memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)
    tokens=$((memory >= 120000 ? 32768 : 16384))
    packed=(--pairs_per_row=2 --model.attention_dropout=0 --model.attention=cudnn) kernels=(kernel norm)
    sizes=(base large) lengths=(128 512)
    run=("--train.budget=$budget" --train.batch_size=256 --train.eval_every=1000 --checkpoint.save_every=2000
        --optimizer.warmup_steps=None --optimizer.peak_lr=4e-4 --train.profile_from=101 --train.profile_steps=5)
    task=()
    buckets=(--lengths 16 64 128)
    learned=(SST-2:sst2 STS-B:stsb RTE:rte)
    rows_of() { # SIZE LENGTH; three models and what they keep fit 80 or 140 GB together
        case $1 in base) echo $((tokens / $2)) ;; large) echo $((tokens / 2 / $2)) ;; esac
    }
fi

# one FOLDER NAME: the file there of that name, compressed or not.
one() { find "$1" -name "$2*" | sort | head -n 1; }

# Pretraining is the first phase alone.
cat >"$out/base.py" <<'PYTHON'
import dataclasses
import runpy


def get_config():
    return dataclasses.replace(runpy.run_path("configs/bert_base.py")["get_config"](), phases=())
PYTHON

# 1. The step, beside Hugging Face's: rows that are full, with all of the paper's dropout, and without that of attention's
# weights; so, by cuDNN, packed rows of a long and a short pair, which Hugging Face reads one by one. What the kernels are
# worth, of attention and of the norm, is told without Hugging Face.
for size in "${sizes[@]}"; do
    for length in "${lengths[@]}"; do
        step=("$python" -m benchmarks.train_step "--config=configs/bert_$size.py" "${tiny[@]}"
            "--data.seq_len=$length" "--data.max_predictions=$((length * 15 / 100 + 1))"
            "--train.batch_size=$(rows_of "$size" "$length")" "${compared[@]}")
        measured "step-$size-$length" "${step[@]}"
        measured "step-$size-$length-without" "${step[@]}" --model.attention_dropout=0
        measured "step-$size-$length-packed" "${step[@]}" "${packed[@]}" --lengths $((length * 3 / 4)) $((length / 4))
        kernel=("$python" -m benchmarks.ablation "--config=configs/bert_$size.py" "${tiny[@]}"
            "--data.seq_len=$length" "--data.max_predictions=$((length * 15 / 100 + 1))"
            "--train.batch_size=$(rows_of "$size" "$length")" "${ablated[@]}" --only "${kernels[@]}")
        measured "kernels-$size-$length" "${kernel[@]}"
        measured "kernels-$size-$length-without" "${kernel[@]}" --model.attention_dropout=0
        measured "kernels-$size-$length-packed" "${kernel[@]}" "${packed[@]}" --lengths $((length * 3 / 4)) $((length / 4))
    done
done
measured ablation "$python" -m benchmarks.ablation --config=configs/bert_base.py "${tiny[@]}" \
    "--data.seq_len=${lengths[0]}" "--train.batch_size=$(rows_of base "${lengths[0]}")" "${ablated[@]}" "${techniques[@]}"

# What a run came to: its last evaluation, of a fine-tuning that of its best checkpoint.
pretrained() {
    "$python" train.py "$@"
    "$python" -c 'import json, pathlib, sys; from bertjax.training.metrics import last_evaluation
print(json.dumps(last_evaluation(pathlib.Path(sys.argv[1]))))' "$out/runs/base"
}
finetuned() {
    "$python" finetune.py "$@"
    cat "$out/runs/$config/figures.json"
}

# 2. A pretraining, of which some steps are profiled, what it is worth when it is fine-tuned, and how quick it is in use.
measured prepare "$python" -c "from bertjax.cli import main; main()" prepare "$text" --output "$out/corpus" --vocab "$vocab" \
    --seq-len "${lengths[0]}"
measured pretraining pretrained "--config=$out/base.py" "--workdir=$out/runs/base" "${tiny[@]}" \
    "--data.path=$out/corpus" "--data.seq_len=${lengths[0]}" "${run[@]}"
for name in "${learned[@]}"; do
    folder=$tasks/${name%:*} config=${name#*:}
    measured "finetuning-$config" finetuned "--config=configs/finetune/$config.py" \
        "--workdir=$out/runs/$config" "--init_from=$out/runs/base" "--data.train=$(one "$folder" train.tsv)" \
        "--data.validation=$(one "$folder" dev.tsv)" "${task[@]}"
done
measured profile "$python" -m benchmarks.trace "$out/runs/base"
measured inference "$python" -m benchmarks.inference "$out/runs/base" "${buckets[@]}"
[ "$picked" ] || { echo "error: --only='$only' picks nothing; the files' names are like step-base-128" >&2; exit 2; }
echo "done after $SECONDS s: $out" >&2
