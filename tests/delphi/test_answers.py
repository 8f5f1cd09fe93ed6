"""From a text to what votes: filters, the metric's normalising, and plain refusals."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")

from mergekit_darwin.delphi.answers import (
    normalised,
    read,
    reader_of,
    score,
)
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.harness import load_tasks
from tests.delphi.stub import write_task

DOC = {"question": "500*2=", "answer": "1000"}
WHOLE = {"filter_list": None}


def loaded(folder, **changes):
    path = [str(write_task(folder, [DOC], **changes))]
    return load_tasks(["sums"], include_path=path)["sums"]["sums"]


def test_answers_are_filtered_and_normalised_as_the_metric_does(tmp_path):
    reader = reader_of("sums", loaded(tmp_path))
    assert reader.words == "exact_match,number"
    for text in ("it is 1,000.", "1000", " 1,000"):
        assert read(reader, DOC, text) == "1000"
        assert score(reader, DOC, text) == 1.0
    assert read(reader, DOC, "-7 or 8") == "-7"
    assert score(reader, DOC, "-7 or 8") == 0.0


def test_no_match_and_empty_text_have_no_answer(tmp_path):
    reader = reader_of("sums", loaded(tmp_path))
    for text in ("no idea", "", "[invalid]", ","):
        assert read(reader, DOC, text) is None
        assert score(reader, DOC, text) == 0.0


def test_a_pattern_reads_the_answer_and_the_task_still_scores_the_text(tmp_path):
    task = loaded(tmp_path, **WHOLE)
    reader = reader_of("sums", task, extract=r"= *(\d+)")
    assert read(reader, DOC, "500*2= 1000") == "1000"
    assert read(reader, DOC, "1000") is None
    assert score(reader, DOC, "1000") == 1.0


def test_normalising_is_that_of_exact_match():
    from lm_eval.api.metrics import exact_match_hf_evaluate

    how = {"regexes_to_ignore": [",", r"\$"], "ignore_case": True}
    for left, right in (("$1,000", "1000"), ("Yes", "yes"), ("yes.", "yes")):
        for more in ({}, {"ignore_punctuation": True}, {"ignore_numbers": True}):
            same = exact_match_hf_evaluate([left], [right], **how, **more)
            equal = normalised(left, how | more) == normalised(right, how | more)
            assert equal == bool(same["exact_match"])


LOGLIKELIHOOD = {
    "output_type": "multiple_choice",
    "doc_to_choice": ["1000", "2"],
    "doc_to_target": 0,
    "filter_list": None,
    "metric_list": [{"metric": "acc"}],
}
CORPUS = {"metric_list": [{"metric": "bleu"}]}


@pytest.mark.parametrize(
    ("changes", "how", "named"),
    [
        (LOGLIKELIHOOD, {}, "only generated answers can be voted on.*multiple_choice"),
        ({"repeats": 4}, {}, "repeats must be 1.*found 4"),
        (WHOLE, {}, "keeps the whole text.*--extract"),
        (CORPUS, {}, "bleu is not a mean over items"),
        ({}, {"metric": "exact_mach"}, "Did you mean 'exact_match'"),
        ({}, {"metric": "exact_match,numbers"}, "Did you mean 'number'"),
        ({}, {"extract": "("}, "must be a regular expression"),
    ],
)
def test_what_cannot_be_voted_on_is_refused_in_one_line(tmp_path, changes, how, named):
    with pytest.raises(DarwinError, match=named) as refused:
        reader_of("sums", loaded(tmp_path, **changes), **how)
    assert "\n" not in str(refused.value)
