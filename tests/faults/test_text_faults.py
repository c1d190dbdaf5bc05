"""Bad transcripts, trials, scores, RTTM, UEM, alignments, and descriptions of reports."""

import pytest

from tests.faults import harness
from tests.faults.harness import Content, Desk, Fault, start_of

LATIN = "a Straße\n".encode("latin-1")
WER = "score wer --ref ref --hyp"
EER = "score eer --trials trials --scores"
DER = "score der --ref ref.rttm --hyp"
VERIFY = "verify --embeddings embeddings --output new --trials"
QUALITY = "quality --labels frame_labels/cuts.jsonl.gz --alignment"
NGRAM = "ngram estimate --out new"
REPORT = "report --exp exp/asr --out new --config"
TURN = "SPEAKER m 1 0 5 <NA> <NA> x <NA> <NA>\n"
PAIR, OTHER = "synthetic-0-0000 synthetic-0-0004", "synthetic-0-0000 synthetic-0-0001"
ALIGNED = "synthetic-0-0000 1 0.0 0.5 a\n"

# Kind -> command whose last word names the bad file, content of that file, complaint.
TEXTS: dict[str, tuple[str, Content, str]] = {
    "hypothesis missing": (f"{WER} x", harness.nothing, "x: No such file"),
    "hypothesis is a folder": (
        f"{WER} x",
        harness.folder,
        "x: Is a directory, expected a readable text file",
    ),
    "hypothesis not in UTF-8": (
        f"{WER} x",
        LATIN,
        "x:1: found bytes that are not UTF-8, expected a text file",
    ),
    "hypothesis of fewer utterances": (
        f"{WER} x",
        "a the cat\n",
        "ref:2: found 'b' .*, which has no hypothesis in x",
    ),
    "hypothesis of more utterances": (
        f"{WER} x",
        "a x\nb y\nc z\n",
        "x:3: found 'c' .*, which is not in ref; expected",
    ),
    "two hypotheses of an utterance": (
        f"{WER} x",
        "a x\nb y\na z\n",
        "x:3: found 'a again .first on line 1.', expected",
    ),
    "reference empty": ("score wer --hyp hyp --ref x", "", "x: found no utterance, expected at least one"),
    "reference without transcripts": (
        "score wer --hyp hyp --ref x.jsonl",
        '{"id": "a", "supervisions": []}\n',
        "x.jsonl: found no text in its cuts .1., expected at least one",
    ),
    "reference without words": (
        "score wer --hyp hyp --ref x",
        "a\nb\n",
        "found no word in the 2 references, expected at least one",
    ),
    "STM with words for times": (
        f"{WER} x.stm",
        "a 1 s zero 1 <o> words\n",
        "x.stm:1: found 'zero', expected a start time",
    ),
    "STM with too few columns": (f"{WER} x.stm", "a 1 s\n", "x.stm:1: found 'a 1 s', expected `recording"),
    "CTM of negative duration": (
        f"{WER} x.ctm",
        "a 1 0.5 -1 word\n",
        "x.ctm:1: found '0.5 -1', expected a start",
    ),
    "trn without ids": (f"{WER} x.trn", "some words\n", "x.trn:1: found 'some words', expected `words"),
    "cuts for a hypothesis, cut short": (
        f"{WER} x.jsonl",
        harness.cuts_and('{"id": "a", '),
        "x.jsonl:7: found .*expected a JSON object",
    ),
    "damaged gzip": (f"{WER} x.gz", start_of("cuts.jsonl.gz"), r"x.gz:\d: found damaged gzip data"),
    "list of speakers incomplete": (
        f"{WER} hyp --utt2spk x",
        "a anna\n",
        "ref:2: found 'b', expected an utt",
    ),
    "trials malformed": (
        "score eer --scores scores --trials x",
        f"1 {PAIR}\nmaybe {PAIR}\n",
        "x:2: found 'maybe .*expected `1.0 enroll test`",
    ),
    "trials of one kind": ("score eer --scores scores --trials x", f"1 {PAIR}\n1 {OTHER}\n", "nontarget"),
    "trials without scores": (f"{EER} x", f"{PAIR} 1.5\n", "trials:2: found the trial .*has no score in x"),
    "scores that are no numbers": (
        f"{EER} x",
        f"{PAIR} high\n",
        "x:1: found 'high', expected a score, a finite num",
    ),
    "scores that are not finite": (
        f"{EER} x",
        f"{PAIR} nan\n",
        "x:1: found 'nan', expected a score, a finite num",
    ),
    "scores missing": (f"{EER} x", harness.nothing, "x: No such file"),
    "scores empty": (f"{EER} x", "\n", "x: found no score, expected at least one"),
    "RTTM malformed": (
        f"{DER} x",
        TURN + "SPEAKER m 1 0\n",
        "x:2: found 'SPEAKER m 1 0', expected `SPEAKER file",
    ),
    "RTTM with words for times": (
        f"{DER} x",
        "SPEAKER m 1 zero 5 <NA> <NA> x <NA> <NA>\n",
        "x:1: found 'zero'",
    ),
    "RTTM of negative duration": (
        f"{DER} x",
        "SPEAKER m 1 0 -5 <NA> <NA> x <NA> <NA>\n",
        "x:1: found '0 -5', expec",
    ),
    "RTTM of other recordings": (
        f"{DER} x",
        TURN.replace("m", "n"),
        "found the recording 'n' .*expected only",
    ),
    "RTTM missing": (f"{DER} x", harness.nothing, "x: No such file"),
    "UEM with reversed times": (
        f"{DER} hyp.rttm --uem x",
        "m 1 5 0\n",
        "x:1: found '5 0', expected 0 <= start <= end",
    ),
    "UEM malformed": (
        f"{DER} hyp.rttm --uem x",
        "m 5\n",
        "x:1: found 'm 5', expected `file channel start end`",
    ),
    "UEM of other recordings": (
        f"{DER} hyp.rttm --uem x",
        "n 1 0 5\no 1 0 5\n",
        r"x: found the recording 'n' \(2 such\), which is not in the reference; expected .* such as 'm'",
    ),
    "UEM of silence": (
        f"{DER} hyp.rttm --uem x",
        "m 1 7 9\n",
        "x: found no reference speech to score in the regions of the UEM, expected some",
    ),
    "reference RTTM empty": (
        "score der --hyp ref.rttm --extra ignore --ref x",
        "",
        "x: found no reference speech to score in 0 recordings, expected some",
    ),
    "UEM empty": (f"{DER} hyp.rttm --uem x", "", "x: found no region, expected lines"),
    "trials of unknown recordings": (
        f"{VERIFY} x",
        f"1 {PAIR}\n1 nobody a\n",
        "x:2: found 'nobody', expected a recording",
    ),
    "trials of verify malformed": (f"{VERIFY} x", "what is this\n", "x:1: found 'what is this', expected"),
    "alignment missing": (f"{QUALITY} x", harness.nothing, "x: no such file, expected an alignment as CTM"),
    "alignment malformed": (
        f"{QUALITY} x",
        ALIGNED + "a 1 x\n",
        "x:2: found 'a 1 x', expected: utterance channel",
    ),
    "alignment of negative times": (
        f"{QUALITY} x",
        "a 1 -1 2 a\n",
        "x:1: found times -1 2, expected numbers from 0",
    ),
    "alignment of other utterances": (
        f"{QUALITY} x",
        "a 1 0 2 a\n",
        "x: found none of the 6 utterances, such as syn",
    ),
    "alignment not in UTF-8": (f"{QUALITY} x", LATIN, "x: not a UTF-8 text file, expected an alignment"),
    "text missing": (f"{NGRAM} x", harness.nothing, "x: no such file, expected text, a sentence a line, or"),
    "text not in UTF-8": (f"{NGRAM} x", LATIN, "x:1: not UTF-8 .*, expected text, a sentence a line"),
    "text without words": (f"{NGRAM} x", "\n \n", "x: found no words, expected some to learn from"),
    "text that ends sentences": (
        f"{NGRAM} x",
        "a b\na </s>\n",
        "x: found </s> in sentence 2, expected words",
    ),
    "text of a tokenizer empty": ("tokenizer learn --out new x", "\n", "x: found no text, expected some"),
    "text to cover cut short": (
        "tokenizer coverage asr x.txt.gz",
        start_of("cuts.jsonl.gz"),
        r"x.txt.gz:\d+: damaged gzip file",
    ),
    "vocabulary missing": (
        f"{NGRAM} ref --vocabulary x",
        harness.nothing,
        "x: no such file, expected a word a",
    ),
    "description missing": (f"{REPORT} x.yaml", harness.nothing, "x.yaml: no such file"),
    "description malformed": (f"{REPORT} x.yaml", "sections: [", r"x.yaml:\d: not YAML"),
    "description of an unknown kind": (
        f"{REPORT} x.yaml",
        "sections: [{kind: pie, title: a}]\n",
        "x.yaml: sections.0..kind: found 'pie', expected",
    ),
    "description of an unknown key": (
        f"{REPORT} x.yaml",
        "titel: a\n",
        "x.yaml: unknown key titel; nearest valid: title",
    ),
    "description that is no JSON": (f"{REPORT} x.json", "{title: a", "x.json:1: not YAML"),
    "report on no experiment": (
        "report --out new --exp x",
        harness.nothing,
        "x: no such folder, expected an experiment",
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_refused(kind: str, desk: Desk) -> None:
    command, content, complaint = TEXTS[kind]
    assert not desk.flaws(Fault(kind, command, complaint, {command.split()[-1]: content}))
    assert not (desk.folder / "new").exists()
