#!/usr/bin/env bash
# Recognition on LibriSpeech, 100 or 960 hours, from scratch or from a pretrained encoder.
#
#   egs/librispeech/asr/run.sh
#   model=zipformer_streaming corpus=/data/LibriSpeech num_gpus=8 egs/librispeech/asr/run.sh
#   model=finetune_transducer hours=100 pretrained=egs/librispeech/ssl/exp/zipformer_base/model egs/librispeech/asr/run.sh
#
# From the environment:
#   model           zipformer_transducer (default), zipformer_streaming, zipformer_ctc; with `pretrained`:
#                   finetune_transducer, hubert_base_ctc: a file of conf/
#   hours           960 (default) or 100, to train on
#   pretrained      model directory of a pretrained encoder
#   exports         true if `pretrained` takes normalised waveforms or filter banks, as sherpa-onnx has them: then there is
#                   a stage export
#   corpus          folder LibriSpeech with its parts; without it they are downloaded to TOOLKIT_DATA (61 GB, or 7.7 GB)
#   musan           folder of the noise corpus MUSAN; none: train without; without it it is downloaded (11 GB)
#   lm_data         folder of LibriSpeech's trigrams and text for language models; without it they are downloaded (1.5 GB)
#   train_parts, valid_parts, test_parts   parts of LibriSpeech (default: by `hours`; dev-clean dev-other; all of dev and test)
#   overrides       further settings of the training, such as "--data.sampler.max_duration=200"
#   batches         of an update, a multiple of the number of GPUs (default: 8; of 100 hours: 4)
#   updates, average, lm_updates, lm_overrides, ngram_lines    defaults are in this script and in conf/
#   searches        folder with configurations of searches (default: conf/)
#   num_gpus, num_nodes, node_rank, master_addr, launcher       see tools/launch.sh and egs/librispeech/ssl/slurm.sh
#   TOOLKIT_DATA, TOOLKIT_EXP   folders for data and experiments (default: data/ and exp/ of this recipe)
. "$(dirname "$0")/../../../tools/stages.sh"
. "$root/tools/recognition.sh"
. "$root/tools/librispeech.sh"

model=${model:-zipformer_transducer} hours=${hours:-960}
config=conf/$model.yaml
experiments=${TOOLKIT_EXP:-$recipe/exp} data=${TOOLKIT_DATA:-$recipe/data}
exp=$experiments/$model-$hours
case $hours in
  100) train_parts=${train_parts:-train-clean-100} ;;
  960) train_parts=${train_parts:-train-clean-100 train-clean-360 train-other-500} ;;
  *) stage_error "hours: found $hours, expected 100 or 960" ;;
esac
valid_parts=${valid_parts:-dev-clean dev-other}
test_parts=${test_parts:-dev-clean dev-other test-clean test-other}
librispeech_settings

train_set=train_$hours valid_set=valid test_sets=$test_parts
head=transducer tokens=bpe500
case $model in
  zipformer_ctc) head=ctc ;;
  hubert_*) head=ctc tokens=letters ;;
esac
# With less data an update takes less of it, and the schedules, which are in seconds of data, are told so.
case $model-$hours in
  zipformer_ctc-100)
    batches=${batches:-4} updates=${updates:-39000}
    settings=(--optim.schedule.updates_per_epoch=780 --speech.encoder.updates_scale=2.3)
    ;;
  zipformer_*-100)
    batches=${batches:-4} updates=${updates:-27000}
    settings=(--optim.schedule.updates_per_epoch=540 --speech.encoder.updates_scale=3.3)
    ;;
  finetune_*-100) updates=${updates:-30000} ;;
  hubert_*-960)
    updates=${updates:-320000}
    settings=(--optim.lr=1e-4 --mask.prob=0.5 --channel_mask.prob=0.1)
    ;;
esac
batches=${batches:-8} average=${average:-10}
case $model in
  zipformer_*)
    exports=${exports:-true}
    if [ "$musan" != none ]; then noise=$data/cuts_musan.jsonl.gz; fi
    ;;
  *) exports=${exports:-false} ;;
esac
if [ "$model" = zipformer_streaming ]; then streams=true; fi
lm_exp=$experiments/lm-$tokens-$hours lm_config=conf/lm.yaml
if $quick; then updates=2000 lm_updates=2000 average=1 ngram_lines=100000; fi

stage download "LibriSpeech and text for language models from openslr.org" download
# shellcheck disable=SC2086 # $train_parts and the others are several words
download() {
  if [[ $model != zipformer_* && -z $pretrained ]]; then
    stage_error "pretrained: found nothing, expected the model directory of a pretrained encoder, as conf/$model.yaml needs"
  fi
  download_librispeech $train_parts $valid_parts $test_parts
  download_lm
}

stage prepare "manifests, and a look at all audio" prepare "$root/tools/cuts.py"
# shellcheck disable=SC2086 # $train_parts and the others are several words
prepare() {
  local part
  stage_drop "$data/lhotse" "$data/made_"*.txt
  prepare_librispeech $train_parts $valid_parts $test_parts
  librispeech_cuts asr "$train_set" $train_parts --shuffle
  librispeech_cuts asr "$valid_set" $valid_parts
  for part in $test_parts; do librispeech_cuts asr "$part" "$part"; done
}

if [ -n "$noise" ]; then
  stage musan "noise from openslr.org" noise_cuts
  noise_cuts() {
    download_musan
    prepare_musan
  }
fi

recognition_stages
run_recipe "$@"
