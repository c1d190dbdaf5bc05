#!/usr/bin/env bash
# From raw recordings to scores: pretraining without transcripts, then recognition, speaker verification and diarization
# from the pretrained encoder, on the telephone prompts of five languages (131 minutes) and synthetic voices.
# TOOLKIT_DATA and TOOLKIT_EXP name the folders for data and experiments: data/mini and exp/mini at the root of the
# repository where its run.sh is started, data/ and exp/ of this recipe otherwise.
. "$(dirname "$0")/../../tools/stages.sh"
. "$root/tools/beside.sh"
. local/train.sh

exp=${TOOLKIT_EXP:-$recipe/exp}
data=${TOOLKIT_DATA:-$recipe/data}
voices=80 voice_seconds=40 meetings="--train 40 --valid 5 --test 14"
# Frames of a chunk of a stream and before it, of 40 ms.
chunk=16 left_context=64
scales="0.1 0.2 0.3 0.4 0.6" sentences=1000
portion=1 pretrain_updates=900 pretrain2_updates=1000 asr_updates=800 speaker_updates=600 diarization_updates=300
if $quick; then
  scales=0.3 sentences=20
  voices=20 voice_seconds=24 meetings="--train 8 --valid 2 --test 6"
  portion=0.2 pretrain_updates=60 pretrain2_updates=60 asr_updates=60 speaker_updates=40 diarization_updates=40
fi

stage fetch "recordings and transcripts, with checksums" fetch local/{fetch,corpus}.py local/checksums.txt
fetch() { python local/fetch.py --data "$data" --source "${TOOLKIT_MINI_SOURCE:-auto}"; }

stage manifests "decode, check and split the recordings" manifests \
  local/{manifests,corpus,sentences}.py "$data/source.txt"
manifests() { python local/manifests.py --data "$data"; }

stage voices "synthetic voices read training sentences" voices \
  local/{tts,sentences,tasks,corpus}.py "$data/source.txt" "$data/cuts_real_"{train,valid,test}".jsonl.gz?"
voices() {
  python local/tts.py --data "$data" --speakers $voices --seconds $voice_seconds
  python local/tasks.py --data "$data"
}

stage meetings "simulated meetings" meetings \
  local/{meetings,corpus}.py "$data/cuts_tts.jsonl.gz" "$data/cuts_real_"{train,test}".jsonl.gz?"
# shellcheck disable=SC2086 # $meetings are several words
meetings() { python local/meetings.py --data "$data" $meetings; }

stage kmeans "cluster MFCC, label frames, measure the labels" kmeans \
  "$data/cuts_pretrain_"{train,valid}.jsonl.gz "$data/phones_tts.ctm"
kmeans() { label_frames 1 100 --cmvn; }

stage pretrain "masked prediction of the MFCC labels" pretrain \
  conf/pretrain.yaml "$exp/labels-1/"{train,valid}/cuts.jsonl.gz "$exp/labels-1/kmeans.safetensors"
pretrain() { pretrain_on 1 100 $pretrain_updates; }

stage relabel "cluster a hidden layer, label and measure again" relabel \
  "$exp/pretrain-1/model/model.safetensors" "$data/cuts_pretrain_"{train,valid}.jsonl.gz "$data/phones_tts.ctm"
relabel() { label_frames 2 200 --model "$exp/pretrain-1/model" --layer 3; }

stage pretrain2 "masked prediction of the hidden layer's labels" pretrain2 \
  conf/pretrain.yaml "$exp/labels-2/"{train,valid}/cuts.jsonl.gz "$exp/labels-2/kmeans.safetensors" \
  "$exp/pretrain-1/model/model.safetensors"
pretrain2() { pretrain_on 2 200 $pretrain2_updates --init.model="$exp/pretrain-1/model"; }

stage asr "recognition: CTC and transducer, from scratch and from the pretrained encoder" asr \
  conf/asr.yaml "$exp/pretrain-2/model/model.safetensors" "$data/cuts_asr_"{train,valid}.jsonl.gz
asr() {
  stage_drop "$exp/asr-scratch" "$exp/asr-pretrained"
  local settings=(--data.train="$data/cuts_asr_train.jsonl.gz" --data.valid="$data/cuts_asr_valid.jsonl.gz"
    "--train.max_updates=$asr_updates")
  beside "from scratch" python -m toolkit.bin.train --config conf/asr.yaml --exp "$exp/asr-scratch" "${settings[@]}"
  beside pretrained python -m toolkit.bin.train --config conf/asr.yaml --exp "$exp/asr-pretrained" "${settings[@]}" \
    --init.model="$exp/pretrain-2/model"
  wait_for_all
}

stage ngram "n-gram model of the characters of the training sentences" ngram \
  "$exp/asr-scratch/model/tokens.txt" "$data/cuts_asr_"{train,valid}.jsonl.gz
ngram() {
  stage_drop "$exp/ngram"
  python -m toolkit.bin.ngram estimate "$data/cuts_asr_train.jsonl.gz" --model "$exp/asr-scratch/model" --order 6 \
    --out "$exp/ngram/characters.arpa" --test "$data/cuts_asr_valid.jsonl.gz"
}

stage decode "recognise held-out sentences: greedily, with beams, with the n-gram model; word error rates" decode \
  conf/searches.yaml local/best.py "$exp/ngram/characters.arpa" "$exp/asr-"{scratch,pretrained}/model/model.safetensors \
  "$data/cuts_asr_"{valid,test}.jsonl.gz
decode() {
  stage_drop "$exp/decode"
  first_sentences "$exp/decode/cuts.jsonl"
  local system head scale lms
  for system in scratch pretrained; do
    lms=()
    for head in ctc transducer; do
      scale=$(best_scale $system $head)
      echo "$system, $head: the n-gram model is scaled by $scale"
      lms+=("--searches.${head}_lm.fusion.ngram=$exp/ngram/characters.arpa"
        "--searches.${head}_lm.fusion.ngram_scale=$scale")
    done
    beside $system python -m toolkit.bin.decode --model "$exp/asr-$system/model" --cuts "$exp/decode/cuts.jsonl" \
      --out "$exp/decode/$system" --searches conf/searches.yaml "${lms[@]}"
  done
  wait_for_all
  score_sentences decode
  python -m toolkit.bin.decode --model "$exp/asr-pretrained/model" --cuts "$data/cuts_asr_test.jsonl.gz" \
    --out "$exp/decode/alignment" --align
}

stage stream "recognise them in chunks, as they arrive; word error rates, latencies" stream \
  conf/streams.yaml "$exp/asr-"{scratch,pretrained}/model/model.safetensors "$data/cuts_asr_test.jsonl.gz"
stream() {
  stage_drop "$exp/stream"
  first_sentences "$exp/stream/cuts.jsonl"
  local system
  for system in scratch pretrained; do
    beside $system python -m toolkit.bin.decode --model "$exp/asr-$system/model" --cuts "$exp/stream/cuts.jsonl" \
      --out "$exp/stream/$system" --searches conf/streams.yaml \
      --streaming --streaming.chunk_size=$chunk --streaming.left_context=$left_context
  done
  wait_for_all
  score_sentences stream
}

stage sherpa "export the recogniser for sherpa-onnx, and compare what it finds there" sherpa \
  local/sherpa_check.py "$exp/asr-pretrained/model/model.safetensors" "$data/cuts_asr_test.jsonl.gz"
sherpa() {
  stage_drop "$exp/sherpa"
  first_sentences "$exp/sherpa/cuts.jsonl"
  local model=$exp/asr-pretrained/model kind chunks=()
  for kind in whole stream; do
    python -m toolkit.bin.export --to sherpa --model "$model" "$exp/sherpa/$kind" ${chunks[@]+"${chunks[@]}"}
    beside $kind python local/sherpa_check.py --model "$model" --sherpa "$exp/sherpa/$kind" \
      --cuts "$exp/sherpa/cuts.jsonl" --json "$exp/sherpa/$kind.json" ${chunks[@]+"${chunks[@]}"}
    chunks=(--chunk-size "$chunk" --left-context "$left_context")
  done
  wait_for_all
}

stage quality "label quality against the recogniser's alignment of real recordings" quality \
  "$exp/asr-pretrained/model/model.safetensors" "$data/cuts_asr_train.jsonl.gz" "$exp/labels-"{1,2}/train/cuts.jsonl.gz \
  "$exp/labels-"{1,2}/kmeans.safetensors
quality() {
  stage_drop "$exp/quality"
  local iteration
  python -m toolkit.bin.decode --model "$exp/asr-pretrained/model" --cuts "$data/cuts_asr_train.jsonl.gz" \
    --out "$exp/quality/alignment" --align
  for iteration in 1 2; do
    python -m toolkit.bin.quality --labels "$exp/labels-$iteration/train/cuts.jsonl.gz" \
      --alignment "$exp/quality/alignment/tokens.ctm" --json "$exp/quality/labels-$iteration.json"
  done
}

stage speaker "speaker verification: fine-tune, embed, score trials" speaker \
  conf/speaker.yaml "$exp/pretrain-2/model/model.safetensors" "$data/cuts_speaker_"{train,valid}.jsonl.gz \
  "$data/cuts_trials_"{valid,test}.jsonl.gz "$data/trials_"{valid,tts}.txt "$data/trials_real.txt?"
speaker() {
  stage_drop "$exp/speaker"
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
  conf/diarization.yaml local/best.py "$exp/pretrain-2/model/model.safetensors" "$exp/speaker/model/model.safetensors" \
  "$data/cuts_meetings_"{train,valid,test}.jsonl.gz "$data/ref_meetings_"{valid,test}.{rttm,uem}
diarization() {
  stage_drop "$exp/diarization"
  local set threshold
  train diarization conf/diarization.yaml --data.train="$data/cuts_meetings_train.jsonl.gz" \
    --data.valid="$data/cuts_meetings_valid.jsonl.gz" --train.max_updates=$diarization_updates \
    --init.model="$exp/pretrain-2/model"
  # The distance up to which two voices are one speaker is chosen on the validation meetings.
  for threshold in 0.3 0.4 0.5 0.6 0.7; do
    diarize_meetings valid $threshold "$exp/diarization/valid_$threshold.rttm"
    python -m toolkit.bin.score der --ref "$data/ref_meetings_valid.rttm" --hyp "$exp/diarization/valid_$threshold.rttm" \
      --uem "$data/ref_meetings_valid.uem" --json "$exp/diarization/valid_$threshold.json" | grep -E '^(recording|overall)'
  done
  threshold=$(python local/best.py --key der "$exp"/diarization/valid_*.json)
  echo "threshold $threshold"
  diarize_meetings test "$threshold" "$exp/diarization/test.rttm"
  # Meetings of real voices and of synthetic ones are scored apart.
  for set in real tts; do
    if ! grep "sim-$set" "$data/ref_meetings_test.uem" > "$exp/diarization/$set.uem"; then continue; fi
    python -m toolkit.bin.score der --ref "$data/ref_meetings_test.rttm" --hyp "$exp/diarization/test.rttm" \
      --uem "$exp/diarization/$set.uem" --json "$exp/diarization/der_$set.json"
  done
}

stage report "the table and exp/report.html" report conf/report.yaml \
  "$exp/decode/"{scratch,pretrained}/{ctc,transducer}_{greedy,beam,lm}/wer.json \
  "$exp/stream/"{scratch,pretrained}/{ctc,transducer}_greedy/wer.json "$exp/labels-"{1,2}/quality_tts.json "$exp/quality/labels-"{1,2}.json \
  "$exp/speaker/eer_tts.json" "$exp/diarization/der_tts.json" "$exp/speaker/eer_real.json?" "$exp/diarization/der_real.json?"
report() {
  local edit=''
  # Nothing was measured on real recordings then, and the report must not say so.
  if [ "$(cat "$data/source.txt")" = espeak ]; then edit='s/data: real/data: tts/'; fi
  sed "$edit" conf/report.yaml > "$exp/report.yaml"
  python -m toolkit.bin.report --exp "$exp" --data "$data" --out "$exp/report.html" --table "$exp/RESULTS.md"
  echo "The page: $exp/report.html"
}

# diarize_meetings SPLIT THRESHOLD RTTM
diarize_meetings() {
  python -m toolkit.bin.diarize --model "$exp/diarization/model" --speaker-model "$exp/speaker/model" \
    --cuts "$data/cuts_meetings_$1.jsonl.gz" --threshold "$2" --output "$3"
}

# first_sentences FILE: writes those of the test set that are recognised; with --quick not all of them.
first_sentences() {
  mkdir -p "$(dirname "$1")"
  gunzip -c "$data/cuts_asr_test.jsonl.gz" | awk -v number=$sentences 'NR <= number' > "$1"
}

# score_sentences FOLDER: all searches of both systems; pretrained ones beside the same from scratch.
score_sentences() {
  local system text folder baseline=()
  for system in scratch pretrained; do
    for text in "$exp/$1/$system"/*/text; do
      folder=$(dirname "$text")
      if [ $system = pretrained ]; then baseline=(--baseline "$exp/$1/scratch/$(basename "$folder")/text"); fi
      python -m toolkit.bin.score wer --ref "$exp/$1/cuts.jsonl" --hyp "$text" --json "$folder/wer.json" \
        --details "$folder/wer.txt" ${baseline[@]+"${baseline[@]}"} > "$folder/score.txt"
    done
  done
}

# best_scale SYSTEM HEAD: prints that of the n-gram model with the fewest errors on the validation sentences, if there are
# several to choose from.
best_scale() {
  local scale folder=$exp/decode/scales/$1-$2 reference=$data/cuts_asr_valid.jsonl.gz search=modified_beam
  case $scales in *' '*) ;; *) echo "$scales" && return ;; esac
  if [ "$2" = ctc ]; then search=ctc_beam; fi
  mkdir -p "$folder"
  for scale in $scales; do
    echo "scale_$scale: {name: $search, fusion: {ngram: '$exp/ngram/characters.arpa', ngram_scale: $scale}}"
  done > "$folder/searches.yaml"
  python -m toolkit.bin.decode --model "$exp/asr-$1/model" --cuts "$reference" --out "$folder" \
    --searches "$folder/searches.yaml" >&2
  for scale in $scales; do
    python -m toolkit.bin.score wer --ref "$reference" --hyp "$folder/scale_$scale/text" \
      --json "$folder/scale_$scale.json" > "$folder/scale_$scale/score.txt"
  done
  python local/best.py --key wer "$folder"/scale_*.json
}

# label_frames ITERATION CLUSTERS [what kmeans is told about the features]
label_frames() {
  local split folder=$exp/labels-$1
  stage_drop "$folder"
  python -m toolkit.bin.kmeans --cuts "$data/cuts_pretrain_train.jsonl.gz" --out "$folder/kmeans.safetensors" \
    --clusters "$2" --frame-shift 0.04 --portion $portion "${@:3}"
  for split in train valid; do
    python -m toolkit.bin.label --cuts "$data/cuts_pretrain_$split.jsonl.gz" --kmeans "$folder/kmeans.safetensors" \
      --out "$folder/$split" --jobs 2
  done
  python -m toolkit.bin.quality --labels "$folder/train/cuts.jsonl.gz" --alignment "$data/phones_tts.ctm" \
    --clusters "$2" --json "$folder/quality_tts.json"
}

# pretrain_on ITERATION CLUSTERS UPDATES [settings]
pretrain_on() {
  stage_drop "$exp/pretrain-$1"
  train "pretrain-$1" conf/pretrain.yaml --data.train="$exp/labels-$1/train/cuts.jsonl.gz" \
    --data.valid="$exp/labels-$1/valid/cuts.jsonl.gz" --objective.num_classes="$2" \
    --train.max_updates="$3" "${@:4}"
}

run_stages "$@"
