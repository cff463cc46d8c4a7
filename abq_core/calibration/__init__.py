"""Block-wise calibration (arXiv 2408.08554): the walk over the blocks, and what each learns."""
