"""The serving side: starting vLLM, installing it on a machine without a GPU, and the small demo model.

Importing this package imports neither vLLM nor torch.
"""
