"""Benchmarks: questions with known answers, and the documents they are asked about."""
