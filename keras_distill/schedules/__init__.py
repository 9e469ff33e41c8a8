"""Numbers that change while a student learns: over the updates, or by what is seen."""

from keras_distill.schedules.balance import Balance as Balance
from keras_distill.schedules.balance import GradientNorm as GradientNorm
from keras_distill.schedules.balance import Uncertainty as Uncertainty
from keras_distill.schedules.observed import TeacherEntropy as TeacherEntropy
from keras_distill.schedules.over_steps import Cosine as Cosine
from keras_distill.schedules.over_steps import Linear as Linear
from keras_distill.schedules.over_steps import Schedule as Schedule
from keras_distill.schedules.over_steps import Steps as Steps
from keras_distill.schedules.over_steps import WarmUp as WarmUp
from keras_distill.schedules.scalars import constant as constant
from keras_distill.schedules.scalars import is_variable as is_variable
from keras_distill.schedules.values import bounds as bounds
from keras_distill.schedules.values import check_within as check_within
from keras_distill.schedules.values import is_scheduled as is_scheduled
from keras_distill.schedules.values import value_at as value_at
