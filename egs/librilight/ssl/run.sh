#!/usr/bin/env bash
# Pretraining on Libri-Light, 57,700 hours without transcripts: large encoders.
#
#   corpus=/data/librilight teacher=egs/librispeech/ssl/exp/hubert_base/model layer=9 egs/librilight/ssl/run.sh
#
# From the environment:
#   model           zipformer_large (default), hubert_large: a file of conf/
#   corpus          folder with small/, medium/, large/; without it they are downloaded to TOOLKIT_DATA (3.4 TB)
#   subsets         which of them (default: small medium large)
#   teacher         model directory whose layer `layer` is clustered, so that one iteration is enough: HuBERT large learned
#                   from layer 9 of HuBERT base; without it the first iteration's labels are MFCC clusters
#   alignment       CTM of phones or characters to measure labels and model against (default: none)
#   overrides       further settings of the training, such as "--data.sampler.max_duration=200"
#   valid_share     of the speakers, to validate on (default: 0.001)
#   batches         of an update, a multiple of the number of GPUs (default: 16; hubert_large: 32)
#   updates_1, updates_2, layer, clusters_1, clusters_2, max_frames, average   defaults are in this script
#   num_gpus, num_nodes, node_rank, master_addr, launcher       see tools/launch.sh and egs/librispeech/ssl/slurm.sh
#   TOOLKIT_DATA, TOOLKIT_EXP   folders for data and experiments (default: data/ and exp/ of this recipe)
. "$(dirname "$0")/../../../tools/stages.sh"
. "$root/tools/pretraining.sh"

model=${model:-zipformer_large}
config=conf/$model.yaml
exp=${TOOLKIT_EXP:-$recipe/exp}/$model
data=${TOOLKIT_DATA:-$recipe/data}
subsets=${subsets:-small medium large} valid_share=${valid_share:-0.001}
given=$(from_start "${corpus:-}")
corpus=${given:-$data/librilight}
alignment=$(from_start "${alignment:-}") teacher=$(from_start "${teacher:-}")
overrides=${overrides:-} max_frames=${max_frames:-4000000} average=${average:-5}
clusters_1=${clusters_1:-500} clusters_2=${clusters_2:-500}
# Which layer depends on the teacher then, not on the model.
if [ -n "$teacher" ]; then layer=${layer:-none}; fi
case $model in
  hubert_*) batches=${batches:-32} layer=${layer:-9} updates_1=${updates_1:-400000} updates_2=${updates_2:-400000} ;;
  *) batches=${batches:-16} layer=${layer:-4} updates_1=${updates_1:-250000} updates_2=${updates_2:-250000} ;;
esac
# Where the encoder's frames stand: see `python -m toolkit.bin.kmeans --help`.
case $model in *_fbank) margin=4 ;; *) margin=1 ;; esac
if $quick; then updates_1=2000 updates_2=2000 average=1; fi

stage download "Libri-Light from its authors" download
download() {
  local part
  if [ -n "$given" ]; then
    echo "$given is used as it is."
    return
  fi
  mkdir -p "$corpus/.unpacked"
  for part in $subsets; do
    if [ -d "$corpus/$part" ]; then continue; fi
    curl -fL -C - -o "$corpus/$part.tar" "https://dl.fbaipublicfiles.com/librilight/data/$part.tar" ||
      stage_error "$part.tar could not be downloaded to $corpus; start again to go on, or get it from" \
        "https://github.com/facebookresearch/libri-light and name the folder: corpus=/path/to/librilight"
    tar -xf "$corpus/$part.tar" -C "$corpus/.unpacked"
    mv "$corpus/.unpacked/$part" "$corpus/$part"
    rm "$corpus/$part.tar"
  done
}

stage prepare "manifests, stretches of speech, a split by speaker" prepare local/segments.py
# shellcheck disable=SC2086 # $subsets are several words
prepare() {
  local part
  stage_drop "$data/lhotse"
  for part in $subsets; do
    [ -d "$corpus/$part" ] || stage_error "$corpus/$part: no such folder, expected a subset of Libri-Light"
  done
  mkdir -p "$data/lhotse"
  for part in small medium large; do
    # Lhotse wants all three, but passes over those that have manifests.
    case " $subsets " in
      *" $part "*) ;;
      *) touch "$data/lhotse/librilight_"{recordings,supervisions}"_$part.jsonl.gz" ;;
    esac
  done
  lhotse prepare librilight -j 8 "$corpus" "$data/lhotse"
  python local/segments.py --manifests "$data/lhotse" --out "$data/all.jsonl.gz" $subsets
  python -m toolkit.bin.prepare validate "$data/all.jsonl.gz" --task ssl --out "$data/cuts.jsonl.gz"
  python -m toolkit.bin.prepare split "$data/cuts.jsonl.gz" "$data" --split-by speaker --valid "$valid_share" --test 0
}

pretraining_stages
run_recipe "$@"
