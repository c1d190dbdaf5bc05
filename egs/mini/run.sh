#!/usr/bin/env bash
# From raw recordings to scores: pretraining without transcripts, then recognition, speaker verification and diarization
# from the pretrained encoder, on the telephone prompts of five languages (131 minutes) and synthetic voices.
# TOOLKIT_DATA and TOOLKIT_EXP name other folders than data/ and exp/ of this recipe.
. "$(dirname "$0")/../../tools/stages.sh"

exp=${TOOLKIT_EXP:-$recipe/exp}
data=${TOOLKIT_DATA:-$recipe/data}
voices=80 voice_seconds=40 meetings="--train 40 --valid 5 --test 14"
portion=1 pretrain_updates=2000 asr_updates=900 speaker_updates=700 diarization_updates=400
if $quick; then
  voices=20 voice_seconds=24 meetings="--train 8 --valid 2 --test 6"
  portion=0.2 pretrain_updates=60 asr_updates=60 speaker_updates=40 diarization_updates=40
fi

stage fetch "recordings and transcripts, with checksums" fetch local/fetch.py local/checksums.txt
fetch() { python local/fetch.py --data "$data"; }

stage manifests "decode, check and split the recordings" manifests local/manifests.py "$data/source.txt"
manifests() { python local/manifests.py --data "$data"; }

stage voices "synthetic voices read training sentences" voices \
  local/tts.py local/sentences.py local/tasks.py local/manifests.py "$data/source.txt"
voices() {
  python local/tts.py --data "$data" --speakers $voices --seconds $voice_seconds
  python local/tasks.py --data "$data"
}

stage meetings "simulated meetings" meetings local/meetings.py "$data/cuts_tts.jsonl.gz"
# shellcheck disable=SC2086 # $meetings are several words
meetings() { python local/meetings.py --data "$data" $meetings; }

stage kmeans "cluster MFCC, label frames, measure the labels" kmeans "$data/cuts_pretrain_train.jsonl.gz"
kmeans() { label_frames 1 100 --cmvn; }

stage pretrain "masked prediction of the MFCC labels" pretrain conf/pretrain.yaml "$exp/labels-1/train/cuts.jsonl.gz"
pretrain() { pretrain_on 1 100; }

stage relabel "cluster a hidden layer, label and measure again" relabel "$exp/pretrain-1/model/model.safetensors"
relabel() { label_frames 2 200 --model "$exp/pretrain-1/model" --layer 4; }

stage pretrain2 "masked prediction of the hidden layer's labels" pretrain2 \
  conf/pretrain.yaml "$exp/labels-2/train/cuts.jsonl.gz"
pretrain2() { pretrain_on 2 200 --init.model="$exp/pretrain-1/model"; }

stage asr "recognition: CTC from scratch and from the pretrained encoder" asr \
  conf/asr.yaml "$exp/pretrain-2/model/model.safetensors" "$data/cuts_asr_train.jsonl.gz"
asr() {
  local settings=(--data.train="$data/cuts_asr_train.jsonl.gz" --data.valid="$data/cuts_asr_valid.jsonl.gz"
    "--train.max_updates=$asr_updates")
  train asr-scratch conf/asr.yaml "${settings[@]}"
  train asr-pretrained conf/asr.yaml "${settings[@]}" --init.model="$exp/pretrain-2/model"
}

stage decode "recognise held-out sentences, word error rates" decode \
  "$exp/asr-scratch/model/model.safetensors" "$exp/asr-pretrained/model/model.safetensors"
decode() {
  local system reference=$data/cuts_asr_test.jsonl.gz
  for system in scratch pretrained; do
    python -m toolkit.bin.decode --model "$exp/asr-$system/model" --cuts "$reference" --out "$exp/asr-$system/test"
  done
  python -m toolkit.bin.score wer --ref "$reference" --hyp "$exp/asr-scratch/test/text" \
    --json "$exp/asr-scratch/wer.json" --details "$exp/asr-scratch/wer.txt"
  python -m toolkit.bin.score wer --ref "$reference" --hyp "$exp/asr-pretrained/test/text" \
    --baseline "$exp/asr-scratch/test/text" --json "$exp/asr-pretrained/wer.json" --details "$exp/asr-pretrained/wer.txt"
  python -m toolkit.bin.decode --model "$exp/asr-pretrained/model" --cuts "$reference" \
    --out "$exp/asr-pretrained/alignment" --align
}

stage quality "label quality against the recogniser's alignment of real recordings" quality \
  "$exp/asr-pretrained/model/model.safetensors" "$exp/labels-2/train/cuts.jsonl.gz"
quality() {
  local iteration alignment=$exp/asr-pretrained/alignment-train
  python -m toolkit.bin.decode --model "$exp/asr-pretrained/model" --cuts "$data/cuts_asr_train.jsonl.gz" \
    --out "$alignment" --align
  for iteration in 1 2; do
    python -m toolkit.bin.quality --labels "$exp/labels-$iteration/train/cuts.jsonl.gz" \
      --alignment "$alignment/tokens.ctm" --json "$exp/labels-$iteration/quality_real.json"
  done
}

stage speaker "speaker verification: fine-tune, embed, score trials" speaker \
  conf/speaker.yaml "$exp/pretrain-2/model/model.safetensors" "$data/cuts_speaker_train.jsonl.gz"
speaker() {
  local set split
  train speaker conf/speaker.yaml --data.train="$data/cuts_speaker_train.jsonl.gz" \
    --data.valid="$data/cuts_speaker_valid.jsonl.gz" --train.max_updates=$speaker_updates \
    --init.model="$exp/pretrain-2/model"
  for split in valid test; do
    python -m toolkit.bin.embed --model "$exp/speaker/model" --cuts "$data/cuts_trials_$split.jsonl.gz" \
      --output "$exp/speaker/$split.safetensors"
  done
  # The trials of `valid` are there to choose settings by.
  for set in valid real tts; do
    if [ ! -s "$data/trials_$set.txt" ]; then continue; fi
    split="test"
    if [ $set = valid ]; then split="valid"; fi
    python -m toolkit.bin.verify --trials "$data/trials_$set.txt" --embeddings "$exp/speaker/$split.safetensors" \
      --output "$exp/speaker/scores_$set.txt"
    python -m toolkit.bin.score eer --trials "$data/trials_$set.txt" --scores "$exp/speaker/scores_$set.txt" \
      --json "$exp/speaker/eer_$set.json"
  done
}

stage diarization "diarization: fine-tune on meetings, cluster, score" diarization \
  conf/diarization.yaml "$exp/speaker/model/model.safetensors" "$data/cuts_meetings_train.jsonl.gz"
diarization() {
  local set threshold
  train diarization conf/diarization.yaml --data.train="$data/cuts_meetings_train.jsonl.gz" \
    --data.valid="$data/cuts_meetings_valid.jsonl.gz" --train.max_updates=$diarization_updates \
    --init.model="$exp/pretrain-2/model"
  # The distance up to which two voices are one speaker is chosen on the validation meetings.
  for threshold in 0.2 0.3 0.4 0.5; do
    diarize_meetings valid $threshold "$exp/diarization/valid_$threshold.rttm"
    python -m toolkit.bin.score der --ref "$data/ref_meetings_valid.rttm" --hyp "$exp/diarization/valid_$threshold.rttm" \
      --uem "$data/ref_meetings_valid.uem" --json "$exp/diarization/valid_$threshold.json" | grep -E '^(recording|overall)'
  done
  threshold=$(python local/best.py --key der "$exp"/diarization/valid_*.json)
  echo "threshold $threshold"
  diarize_meetings test "$threshold" "$exp/diarization/test.rttm"
  # Meetings of real voices and of synthetic ones are scored apart.
  for set in real tts; do
    if ! grep -q "sim-$set" "$data/ref_meetings_test.uem"; then continue; fi
    grep "sim-$set" "$data/ref_meetings_test.rttm" > "$exp/diarization/ref_$set.rttm"
    grep "sim-$set" "$data/ref_meetings_test.uem" > "$exp/diarization/$set.uem"
    grep "sim-$set" "$exp/diarization/test.rttm" > "$exp/diarization/hyp_$set.rttm"
    python -m toolkit.bin.score der --ref "$exp/diarization/ref_$set.rttm" --hyp "$exp/diarization/hyp_$set.rttm" \
      --uem "$exp/diarization/$set.uem" --json "$exp/diarization/der_$set.json"
  done
}

stage report "the table and exp/report.html" report conf/report.yaml "$exp/asr-pretrained/wer.json" \
  "$exp/speaker/eer_tts.json" "$exp/diarization/der_tts.json"
report() {
  cp conf/report.yaml "$exp/report.yaml"
  if [ "$(cat "$data/source.txt")" = espeak ]; then
    # Nothing was measured on real recordings then, and the report must not say so.
    sed -i.all 's/data: real/data: tts/' "$exp/report.yaml"
  fi
  python -m toolkit.bin.report --exp "$exp" --data "$data" --out "$exp/report.html" --table "$exp/RESULTS.md"
  echo "The page: $exp/report.html"
}

# diarize_meetings SPLIT THRESHOLD RTTM
diarize_meetings() {
  python -m toolkit.bin.diarize --model "$exp/diarization/model" --speaker-model "$exp/speaker/model" \
    --cuts "$data/cuts_meetings_$1.jsonl.gz" --threshold "$2" --output "$3"
}

# label_frames ITERATION CLUSTERS [what kmeans is told about the features]
label_frames() {
  local split folder=$exp/labels-$1
  if $fresh; then rm -rf "$folder"; fi
  python -m toolkit.bin.kmeans --cuts "$data/cuts_pretrain_train.jsonl.gz" --out "$folder/kmeans.safetensors" \
    --clusters "$2" --frame-shift 0.04 --portion $portion "${@:3}"
  for split in train valid; do
    python -m toolkit.bin.label --cuts "$data/cuts_pretrain_$split.jsonl.gz" --kmeans "$folder/kmeans.safetensors" \
      --out "$folder/$split" --jobs 2
  done
  python -m toolkit.bin.quality --labels "$folder/train/cuts.jsonl.gz" --alignment "$data/phones_tts.ctm" \
    --clusters "$2" --json "$folder/quality_tts.json"
}

# pretrain_on ITERATION CLUSTERS [settings]
pretrain_on() {
  train "pretrain-$1" conf/pretrain.yaml --data.train="$exp/labels-$1/train/cuts.jsonl.gz" \
    --data.valid="$exp/labels-$1/valid/cuts.jsonl.gz" --objective.num_classes="$2" \
    --train.max_updates=$pretrain_updates "${@:3}"
}

# train EXPERIMENT CONFIGURATION [settings]: two batches make an update, on two cores or GPUs where there are two, else
# one after the other; the result is the same.
train() {
  local restart='' devices
  if $fresh; then restart=--restart; fi
  devices=$(python -c 'import os, torch; print(torch.cuda.device_count() or len(os.sched_getaffinity(0)))')
  if [ "$devices" -ge 2 ]; then
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m toolkit.bin.train --config "$2" --exp "$exp/$1" \
      ${restart:+"$restart"} "${@:3}"
  else
    python -m toolkit.bin.train --config "$2" --exp "$exp/$1" --train.accumulation=2 ${restart:+"$restart"} "${@:3}"
  fi
}

run_stages "$@"
