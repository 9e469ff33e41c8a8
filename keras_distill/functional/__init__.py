"""Loss mathematics: tensors in, one value an example out; no state, no reduction over the batch.

Every function takes the student first and the teacher second, computes in at least float32
(float64 stays float64) and returns `(batch,)`. The mean of what it returns is the published loss.
"""

from keras_distill.functional.affinity import pairwise_affinity as pairwise_affinity
from keras_distill.functional.dense import attentive_regression as attentive_regression
from keras_distill.functional.dense import bounded_regression as bounded_regression
from keras_distill.functional.dense import channel_wise_kl as channel_wise_kl
from keras_distill.functional.dense import multilabel_kl as multilabel_kl
from keras_distill.functional.dense import regression_distance as regression_distance
from keras_distill.functional.features import activation_boundaries as activation_boundaries
from keras_distill.functional.features import hint_mse as hint_mse
from keras_distill.functional.features import masked_generation as masked_generation
from keras_distill.functional.features import partial_l2 as partial_l2
from keras_distill.functional.features import variational_information as variational_information
from keras_distill.functional.labels import balanced_kl as balanced_kl
from keras_distill.functional.labels import bootstrapped_ce as bootstrapped_ce
from keras_distill.functional.labels import hard_example_ce as hard_example_ce
from keras_distill.functional.labels import normalized_kd as normalized_kd
from keras_distill.functional.labels import weighted_soft_target_kl as weighted_soft_target_kl
from keras_distill.functional.logits import decoupled_kd as decoupled_kd
from keras_distill.functional.logits import dist_relation as dist_relation
from keras_distill.functional.logits import generalized_jsd as generalized_jsd
from keras_distill.functional.logits import hard_target_ce as hard_target_ce
from keras_distill.functional.logits import logits_mse as logits_mse
from keras_distill.functional.logits import soft_target_kl as soft_target_kl
from keras_distill.functional.maps import attention_transfer as attention_transfer
from keras_distill.functional.maps import factor_transfer as factor_transfer
from keras_distill.functional.maps import flow_of_solution as flow_of_solution
from keras_distill.functional.maps import hierarchical_context as hierarchical_context
from keras_distill.functional.maps import inter_channel_correlation as inter_channel_correlation
from keras_distill.functional.maps import neuron_selectivity as neuron_selectivity
from keras_distill.functional.ranking import ranking_distillation as ranking_distillation
from keras_distill.functional.relations import (
    contrastive_representation as contrastive_representation,
)
from keras_distill.functional.relations import correlation_congruence as correlation_congruence
from keras_distill.functional.relations import noise_contrastive as noise_contrastive
from keras_distill.functional.relations import probabilistic_transfer as probabilistic_transfer
from keras_distill.functional.relations import relational_kd as relational_kd
from keras_distill.functional.relations import similarity_preserving as similarity_preserving
from keras_distill.functional.sequences import attention_kl as attention_kl
from keras_distill.functional.sequences import attention_mse as attention_mse
from keras_distill.functional.sequences import hidden_state_cosine as hidden_state_cosine
from keras_distill.functional.sequences import hidden_state_mse as hidden_state_mse
from keras_distill.functional.sequences import patient_state_mse as patient_state_mse
from keras_distill.functional.sequences import value_relation_kl as value_relation_kl
from keras_distill.functional.tensors import adaptive_pool as adaptive_pool
from keras_distill.functional.tensors import match_sizes as match_sizes
from keras_distill.functional.vocabularies import shared_token_kl as shared_token_kl
