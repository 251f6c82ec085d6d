"""Products of tokens with kernels, in forms that XLA compiles to fast programs for a TPU.

Each has the values and gradients of its plain form.
"""

KEPT = "product"
"""Name of the results that the backward pass of a block does not compute again."""
