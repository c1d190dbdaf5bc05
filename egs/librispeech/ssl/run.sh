#!/usr/bin/env bash
# Pretraining on LibriSpeech, 960 hours: HuBERT's two iterations, for the encoder that `model` names.
#
#   model=zipformer_base egs/librispeech/ssl/run.sh
#   model=hubert_base corpus=/data/LibriSpeech num_gpus=8 egs/librispeech/ssl/run.sh
#
# From the environment:
#   model           zipformer_base (default), zipformer_base_fbank, hubert_base: a file of conf/
#   corpus          folder LibriSpeech with its parts; without it they are downloaded to TOOLKIT_DATA (61 GB)
#   train_parts     parts to train on (default: all 960 hours); valid_parts: to validate on (default: dev-clean)
#   teacher         model directory whose layer `layer` is clustered in place of MFCC; then there is one iteration
#   alignment       CTM of phones or characters to measure labels and model against (default: none)
#   overrides       further settings of the training, such as "--data.sampler.max_duration=200"
#   batches         of an update, a multiple of the number of GPUs (default: 8)
#   updates_1, updates_2, layer, clusters_1, clusters_2, max_frames, average   defaults are in this script
#   num_gpus, num_nodes, node_rank, master_addr, launcher       see tools/launch.sh and slurm.sh
#   TOOLKIT_DATA, TOOLKIT_EXP   folders for data and experiments (default: data/ and exp/ of this recipe)
. "$(dirname "$0")/../../../tools/stages.sh"
. "$root/tools/pretraining.sh"
. "$root/tools/librispeech.sh"

model=${model:-zipformer_base}
config=conf/$model.yaml
exp=${TOOLKIT_EXP:-$recipe/exp}/$model
data=${TOOLKIT_DATA:-$recipe/data}
train_parts=${train_parts:-train-clean-100 train-clean-360 train-other-500}
valid_parts=${valid_parts:-dev-clean}
librispeech_settings
alignment=$(from_start "${alignment:-}") teacher=$(from_start "${teacher:-}")
overrides=${overrides:-} max_frames=${max_frames:-2000000} average=${average:-5}
clusters_1=${clusters_1:-100} clusters_2=${clusters_2:-500}
# Which layer depends on the teacher then, not on the model.
if [ -n "$teacher" ]; then layer=${layer:-none}; fi
case $model in
  hubert_*) batches=${batches:-8} layer=${layer:-6} updates_1=${updates_1:-250000} updates_2=${updates_2:-400000} ;;
  *) batches=${batches:-8} layer=${layer:-4} updates_1=${updates_1:-100000} updates_2=${updates_2:-200000} ;;
esac
# Where the encoder's frames stand: see `python -m toolkit.bin.kmeans --help`.
case $model in *_fbank) margin=4 ;; *) margin=1 ;; esac
if $quick; then updates_1=2000 updates_2=2000 average=1; fi

stage download "LibriSpeech from openslr.org" download
# shellcheck disable=SC2086 # $train_parts and $valid_parts are several words
download() { download_librispeech $train_parts $valid_parts; }

stage prepare "manifests, and a look at all audio" prepare "$root/tools/cuts.py"
# shellcheck disable=SC2086 # $train_parts and $valid_parts are several words
prepare() {
  stage_drop "$data/lhotse" "$data/made_"*.txt
  prepare_librispeech $train_parts $valid_parts
  librispeech_cuts ssl train $train_parts
  librispeech_cuts ssl valid $valid_parts
}

pretraining_stages
run_recipe "$@"
