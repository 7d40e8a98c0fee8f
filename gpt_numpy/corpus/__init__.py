"""Texts to learn from: tiny Shakespeare, your own, or the built-in grammar's of known entropy."""

from gpt_numpy.corpus.sources import Corpus, load_corpus

__all__ = ["Corpus", "load_corpus"]
