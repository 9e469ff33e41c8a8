"""Loss mathematics: tensors in, one value an example out; no state, no reduction over the batch.

Every function takes the student first and the teacher second, computes in at least float32
(float64 stays float64) and returns `(batch,)`. The mean of what it returns is the published loss.
"""

from .features import hint_mse
from .logits import hard_target_ce, logits_mse, soft_target_kl
from .tensors import adaptive_pool, match_sizes

__all__ = [
    "adaptive_pool",
    "hard_target_ce",
    "hint_mse",
    "logits_mse",
    "match_sizes",
    "soft_target_kl",
]
