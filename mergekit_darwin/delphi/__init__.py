"""Consensus at test time: staged samples, a majority vote, an early stop that is exact.

What a consensus scores belongs to model and engine together; merges are compared by
greedy answers.
"""
