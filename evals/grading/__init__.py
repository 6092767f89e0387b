"""Grading: is an answer right?"""
