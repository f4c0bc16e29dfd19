"""The language: every sentence can be read back, and names what it should and nothing else."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from datamodules.ministvg.actors import ACTIONS, COLOURS, SHAPES, SIZES
from datamodules.ministvg.sentences import ATTRIBUTES, Meaning, all_sentences_sample, ask, declare, understand

MEANINGS = [
    Meaning(shape, colour, size, action)
    for shape, colour, size, action in itertools.product(SHAPES, COLOURS, SIZES, ACTIONS)
    if action != "idle"
]


def test_a_declarative_sentence_means_what_it_was_made_from() -> None:
    rng = np.random.default_rng(0)
    for meaning in MEANINGS * 3:
        sentence = declare(rng, meaning)
        assert understand(sentence) == meaning, sentence


@pytest.mark.parametrize("asked", ATTRIBUTES)
def test_a_question_names_all_but_the_asked_attribute(asked: str) -> None:
    rng = np.random.default_rng(1)
    for meaning in MEANINGS:
        question = ask(rng, meaning, asked)
        assert question.endswith("?")
        assert understand(question) == meaning.without(asked), question


def test_reading_by_hand() -> None:
    assert understand("a small red star jumps up and down") == Meaning("star", "red", "small", "jump")
    assert understand("what is the big thing that glides left?") == Meaning(None, None, "large", "slide_left")


def test_contradiction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \['red', 'blue'\] in 'a red blue star spins'"):
        understand("a red blue star spins")


def test_language_is_small_and_lower_case() -> None:
    sentences = all_sentences_sample(0, 4000)
    assert all(re.fullmatch(r"[a-z ]+\??", sentence) for sentence in sentences)
    words = {word for sentence in sentences for word in sentence.rstrip("?").split()}
    assert 60 < len(words) <= 250


def test_sample_is_seeded_and_mixes_both_kinds() -> None:
    assert all_sentences_sample(3, 200) == all_sentences_sample(3, 200)
    assert all_sentences_sample(3, 200) != all_sentences_sample(4, 200)
    assert 60 < sum(sentence.endswith("?") for sentence in all_sentences_sample(3, 200)) < 140
