"""Loss mathematics: tensors in, one value an example out; no state, no reduction over the batch.

Every function takes the student first and the teacher second, computes in at least float32
(float64 stays float64) and returns `(batch,)`. The mean of what it returns is the published loss.
"""

from .dense import attentive_regression as attentive_regression
from .dense import bounded_regression as bounded_regression
from .dense import channel_wise_kl as channel_wise_kl
from .dense import multilabel_kl as multilabel_kl
from .dense import regression_distance as regression_distance
from .features import activation_boundaries as activation_boundaries
from .features import hint_mse as hint_mse
from .features import partial_l2 as partial_l2
from .features import variational_information as variational_information
from .labels import balanced_kl as balanced_kl
from .labels import bootstrapped_ce as bootstrapped_ce
from .labels import hard_example_ce as hard_example_ce
from .labels import normalized_kd as normalized_kd
from .logits import decoupled_kd as decoupled_kd
from .logits import dist_relation as dist_relation
from .logits import generalized_jsd as generalized_jsd
from .logits import hard_target_ce as hard_target_ce
from .logits import logits_mse as logits_mse
from .logits import soft_target_kl as soft_target_kl
from .maps import attention_transfer as attention_transfer
from .maps import factor_transfer as factor_transfer
from .maps import flow_of_solution as flow_of_solution
from .maps import hierarchical_context as hierarchical_context
from .maps import inter_channel_correlation as inter_channel_correlation
from .maps import neuron_selectivity as neuron_selectivity
from .relations import contrastive_representation as contrastive_representation
from .relations import correlation_congruence as correlation_congruence
from .relations import probabilistic_transfer as probabilistic_transfer
from .relations import relational_kd as relational_kd
from .relations import similarity_preserving as similarity_preserving
from .sequences import attention_kl as attention_kl
from .sequences import attention_mse as attention_mse
from .sequences import hidden_state_cosine as hidden_state_cosine
from .sequences import hidden_state_mse as hidden_state_mse
from .sequences import value_relation_kl as value_relation_kl
from .tensors import adaptive_pool as adaptive_pool
from .tensors import match_sizes as match_sizes
from .vocabularies import shared_token_kl as shared_token_kl
