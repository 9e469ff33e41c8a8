"""What is used of the frameworks' private parts: where it was read, and what breaks without it.

What names no version was read from Keras 3.15.1, whose names are there since 3.10.
"""

from keras_distill._keras import legacy as legacy
from keras_distill._keras.graphs import Functional as Functional
from keras_distill._keras.graphs import first_call as first_call
from keras_distill._keras.graphs import history as history
from keras_distill._keras.graphs import input_structure as input_structure
from keras_distill._keras.graphs import nodes as nodes
from keras_distill._keras.graphs import operation_like as operation_like
from keras_distill._keras.graphs import output_structure as output_structure
from keras_distill._keras.graphs import run_through as run_through
from keras_distill._keras.graphs import sequential_graph as sequential_graph
from keras_distill._keras.graphs import standardized as standardized
from keras_distill._keras.layers import Constraint as Constraint
from keras_distill._keras.layers import Regularizer as Regularizer
from keras_distill._keras.layers import adopt as adopt
from keras_distill._keras.layers import built_with as built_with
from keras_distill._keras.layers import called as called
from keras_distill._keras.layers import children as children
from keras_distill._keras.layers import flag as flag
from keras_distill._keras.layers import holds_layers as holds_layers
from keras_distill._keras.layers import layers_of as layers_of
from keras_distill._keras.layers import own_variables as own_variables
from keras_distill._keras.layers import recomputes as recomputes
from keras_distill._keras.layers import safe_mode as safe_mode
from keras_distill._keras.layers import seed_generators as seed_generators
from keras_distill._keras.layers import set_flag as set_flag
from keras_distill._keras.layers import take_call_protocol as take_call_protocol
from keras_distill._keras.layers import takes_training as takes_training
from keras_distill._keras.layers import trained_variables as trained_variables
from keras_distill._keras.tensorflow import devices_of as devices_of
from keras_distill._keras.tensorflow import graph_of_function as graph_of_function
from keras_distill._keras.tensorflow import outside_the_trace as outside_the_trace
from keras_distill._keras.tensorflow import reshuffled as reshuffled
from keras_distill._keras.tensorflow import rewritten as rewritten
from keras_distill._keras.tensorflow import upstream as upstream
from keras_distill._keras.training import Directions as Directions
from keras_distill._keras.training import LossRoute as LossRoute
from keras_distill._keras.training import MetricRoute as MetricRoute
from keras_distill._keras.training import begin_at as begin_at
from keras_distill._keras.training import bound_arguments as bound_arguments
from keras_distill._keras.training import check_known as check_known
from keras_distill._keras.training import compiled as compiled
from keras_distill._keras.training import forget_compiled as forget_compiled
from keras_distill._keras.training import is_validation_of_fit as is_validation_of_fit
from keras_distill._keras.training import keep_logits as keep_logits
from keras_distill._keras.training import kept_logits as kept_logits
from keras_distill._keras.training import loss_routes as loss_routes
from keras_distill._keras.training import loss_tracker as loss_tracker
from keras_distill._keras.training import mask_of as mask_of
from keras_distill._keras.training import masked as masked
from keras_distill._keras.training import metric_function as metric_function
from keras_distill._keras.training import metric_routes as metric_routes
from keras_distill._keras.training import named_directions as named_directions
from keras_distill._keras.training import reshaped as reshaped
