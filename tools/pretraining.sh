# shellcheck shell=bash
# The stages that recipes for pretraining share: two iterations of clustering, labelling and masked prediction, as HuBERT
# has them. Sourced after stages.sh by a recipe that sets
#   exp, data    folders
#   config       configuration of the training
#   batches      of which an update is made
#   clusters_1, clusters_2    sizes of the codebooks
#   layer        whose output is clustered in the second iteration
#   margin       of the encoder's frames; kmeans --help explains it
#   max_frames   that a codebook is fitted to
#   updates_1, updates_2      of the trainings
#   average      checkpoints that are averaged at the end
#   teacher      model directory whose layer `layer` is clustered at once, so that one iteration is enough; may be empty
#   alignment    CTM of phones or characters of the cuts, to measure labels and model against; may be empty
#   overrides    further settings of the training, in one string
# and has a stage that writes cuts_train.jsonl.gz and cuts_valid.jsonl.gz to $data. Then it calls
#   pretraining_stages
#   run_recipe "$@"

. "$root/tools/recipe.sh"

trainings="pretrain pretrain2"

pretraining_stages() {
  local cuts=("$data/cuts_train.jsonl.gz" "$data/cuts_valid.jsonl.gz")
  last=pretrain-2
  if [ -n "$teacher" ]; then last=pretrain-1; fi

  stage shar "pack the audio into tar files" shar "${cuts[0]}"

  stage kmeans "cluster MFCC, or a layer of the teacher" kmeans "${cuts[0]}" ${teacher:+"$teacher/model.safetensors"}

  stage label "label frames with these clusters" label \
    "$exp/kmeans-1.safetensors" "${cuts[@]}" "$data/shar/train/cuts.000000.jsonl.gz" ${alignment:+"$alignment"}

  stage pretrain "masked prediction of these labels" pretrain "$config" "$exp/labels-1/"{train,valid}/recipe.json

  if [ -z "$teacher" ]; then second_iteration "${cuts[@]}"; fi

  stage average "average the last checkpoints" average "$exp/$last/model/model.safetensors"

  stage probe "what a linear classifier reads from the frozen layers" probe \
    "$exp/model/model.safetensors" "${cuts[@]}" ${alignment:+"$alignment"}
}

# second_iteration CUTS ...
second_iteration() {
  stage relabel "cluster a hidden layer and label frames anew" relabel \
    "$exp/pretrain-1/model/model.safetensors" "$@" ${alignment:+"$alignment"}

  stage pretrain2 "masked prediction of the hidden layer's labels" pretrain2 \
    "$config" "$exp/labels-2/"{train,valid}/recipe.json
}

shar() {
  stage_drop "$data/shar/train"
  # A recipe may be run for several models; the audio is packed once.
  if [ ! -d "$data/shar/train" ]; then
    python -m toolkit.bin.prepare shar "$data/cuts_train.jsonl.gz" "$data/shar/train"
  fi
}

kmeans() {
  stage_drop "$exp/kmeans-1.safetensors"
  if [ -z "$teacher" ]; then
    cluster 1 "$clusters_1" --frame-shift 0.02 --margin "$margin"
  elif [ "$layer" = none ]; then
    stage_error "layer: found nothing, expected the layer of the teacher to cluster, such as 9 for HuBERT base"
  else
    cluster 1 "$clusters_1" --frame-shift 0.02 --model "$teacher" --layer "$layer"
  fi
}

label() {
  stage_drop "$exp/labels-1"
  # MFCC are faster to compute than to bring to a GPU.
  if [ -z "$teacher" ]; then
    label_frames 1 --device cpu --jobs "$(num_processes cores)"
  else
    label_frames 1 --jobs "$(num_processes devices)"
  fi
}

pretrain() { pretrain_on 1 "$clusters_1" "$updates_1"; }

relabel() {
  stage_drop "$exp/kmeans-2.safetensors" "$exp/labels-2"
  cluster 2 "$clusters_2" --model "$exp/pretrain-1/model" --layer "$layer" --frame-shift 0.02
  label_frames 2 --jobs "$(num_processes devices)"
}

pretrain2() { pretrain_on 2 "$clusters_2" "$updates_2"; }

average() {
  python -m toolkit.bin.average --exp "$exp/$last" --last "$average" --output "$exp/model"
}

probe() {
  if [ -z "$alignment" ]; then
    echo "No alignment is named, so there is nothing to compare with: alignment=FILE.ctm names one."
    return
  fi
  python -m toolkit.bin.probe --model "$exp/model" --train-cuts "$data/cuts_train.jsonl.gz" \
    --valid-cuts "$data/cuts_valid.jsonl.gz" --test-cuts "$data/cuts_valid.jsonl.gz" --alignment "$alignment" \
    --json "$exp/probe.json"
}

# cluster ITERATION CLUSTERS [features]
cluster() {
  python -m toolkit.bin.kmeans --cuts "$data/cuts_train.jsonl.gz" --out "$exp/kmeans-$1.safetensors" --clusters "$2" \
    --max-frames "$max_frames" "${@:3}"
}

# label_frames ITERATION [processes]: the audio of the training set stays in its Shar folder.
label_frames() {
  python -m toolkit.bin.label --cuts "$data/shar/train" --kmeans "$exp/kmeans-$1.safetensors" \
    --out "$exp/labels-$1/train" "${@:2}"
  python -m toolkit.bin.label --cuts "$data/cuts_valid.jsonl.gz" --kmeans "$exp/kmeans-$1.safetensors" \
    --out "$exp/labels-$1/valid" "${@:2}"
  python -m toolkit.bin.quality --labels "$exp/labels-$1/valid/cuts.jsonl.gz" --json "$exp/labels-$1/quality.json" \
    ${alignment:+--alignment "$alignment"}
}

# pretrain_on ITERATION CLUSTERS UPDATES
pretrain_on() {
  local settings
  read -r -a settings <<< "$overrides"
  stage_drop "$exp/pretrain-$1"
  "$root/tools/launch.sh" "$batches" --config "$config" --exp "$exp/pretrain-$1" \
    --data.train="$exp/labels-$1/train/shar" --data.valid="$exp/labels-$1/valid/cuts.jsonl.gz" \
    --objective.num_classes="$2" --train.max_updates="$3" ${settings[@]+"${settings[@]}"}
}
