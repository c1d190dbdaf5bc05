#!/usr/bin/env bash
# Recognition with few labels: CTC on top of a pretrained encoder, from 10 minutes, an hour or 10 hours (Libri-Light).
#
#   pretrained=egs/librispeech/ssl/exp/zipformer_base/model egs/librilight/asr/run.sh
#   model=hubert_base subset=10h pretrained=hubert-base corpus=/data/LibriSpeech egs/librilight/asr/run.sh
#
# From the environment:
#   pretrained      model directory of a pretrained encoder
#   model           zipformer (default), for any encoder; hubert_base, hubert_large: a file of conf/
#   exports         true if the encoder takes normalised waveforms or filter banks, as sherpa-onnx has them: then
#                   there is a stage export (default: hubert_large)
#   subset          10min, 1h (default) or 10h
#   finetuning      folder librispeech_finetuning; without it it is downloaded to TOOLKIT_DATA (0.6 GB)
#   corpus          folder LibriSpeech with its dev and test parts; without it they are downloaded (1.3 GB)
#   lm_data         folder of LibriSpeech's trigrams and text for language models; without it they are downloaded (1.5 GB)
#   valid_parts, test_parts   parts of LibriSpeech (default: dev-other; all of dev and test)
#   overrides       further settings of the training, such as "--data.sampler.max_duration=100"
#   batches         of an update, a multiple of the number of GPUs (default: 8; hubert_large: 16)
#   updates, average, lm_updates, lm_overrides, ngram_lines    defaults are in this script and in conf/
#   searches        folder with configurations of searches (default: those of egs/librispeech/asr)
#   num_gpus, num_nodes, node_rank, master_addr, launcher       see tools/launch.sh and egs/librispeech/ssl/slurm.sh
#   TOOLKIT_DATA, TOOLKIT_EXP   folders for data and experiments (default: data/ and exp/ of this recipe)
. "$(dirname "$0")/../../../tools/stages.sh"
. "$root/tools/recognition.sh"
. "$root/tools/librispeech.sh"

model=${model:-zipformer} subset=${subset:-1h}
config=conf/$model.yaml
experiments=${TOOLKIT_EXP:-$recipe/exp} data=${TOOLKIT_DATA:-$recipe/data}
exp=$experiments/$model-$subset
finetuning_given=$(from_start "${finetuning:-}")
finetuning=${finetuning_given:-$data/librispeech_finetuning}
case $subset in
  10min) folders="1h/0" ;;
  1h) folders="1h/0 1h/1 1h/2 1h/3 1h/4 1h/5" ;;
  10h) folders="1h/0 1h/1 1h/2 1h/3 1h/4 1h/5 9h" ;;
  *) stage_error "subset: found $subset, expected 10min, 1h or 10h" ;;
esac
valid_parts=${valid_parts:-dev-other}
test_parts=${test_parts:-dev-clean dev-other test-clean test-other}
librispeech_settings

train_set=train_$subset valid_set=valid test_sets=$test_parts
head=ctc
# What fairseq sets for each amount of data, where it is not in conf/.
case $model-$subset in
  hubert_base-10h)
    updates=${updates:-20000}
    settings=(--channel_mask.prob=0.5 --speech.encoder.layer_drop=0.05)
    ;;
  hubert_large-1h) settings=(--optim.lr=3e-4 --mask.prob=0.75) ;;
  hubert_large-10h)
    updates=${updates:-20000}
    settings=(--mask.prob=0.75)
    ;;
  *-10h) updates=${updates:-20000} ;;
esac
case $model in
  hubert_large) batches=${batches:-16} exports=${exports:-true} ;;
  *) batches=${batches:-8} exports=${exports:-false} ;;
esac
average=${average:-1}
lm_exp=$experiments/lm-letters-$subset lm_config=$root/egs/librispeech/asr/conf/lm.yaml
if $quick; then updates=1000 lm_updates=2000 ngram_lines=100000; fi

stage download "labelled sets, LibriSpeech's dev and test sets, text for language models" download
# shellcheck disable=SC2086 # $valid_parts and $test_parts are several words
download() {
  [ -n "$pretrained" ] || stage_error "pretrained: found nothing, expected the model directory of a pretrained encoder"
  if [ -z "$finetuning_given" ]; then
    fetch https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz "$data/librispeech_finetuning.tgz"
    tar -xzf "$data/librispeech_finetuning.tgz" -C "$data"
  fi
  download_librispeech $valid_parts $test_parts
  download_lm
}

stage prepare "manifests, and a look at all audio" prepare "$root/tools/cuts.py"
# shellcheck disable=SC2086 # $folders and the others are several words
prepare() {
  local folder part manifests=()
  stage_drop "$data/lhotse" "$data/made_"*.txt
  for folder in $folders; do
    [ -d "$finetuning/$folder" ] ||
      stage_error "$finetuning/$folder: no such folder, expected a part of Libri-Light's labelled sets"
    manifests+=("$data/lhotse/$folder")
    lhotse prepare librispeech -p clean -p other "$finetuning/$folder" "$data/lhotse/$folder"
  done
  python "$root/tools/cuts.py" "${manifests[@]}" --corpus librispeech --language en --parts clean other --shuffle \
    --out "$data/all_$train_set.jsonl.gz"
  python -m toolkit.bin.prepare validate "$data/all_$train_set.jsonl.gz" --task asr --decode \
    --out "$data/cuts_$train_set.jsonl.gz"
  prepare_librispeech $valid_parts $test_parts
  librispeech_cuts asr "$valid_set" $valid_parts
  for part in $test_parts; do librispeech_cuts asr "$part" "$part"; done
}

recognition_stages
run_recipe "$@"
