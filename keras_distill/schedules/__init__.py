"""Numbers that change while a student learns: over the updates, or by what is seen."""

from .balance import Balance as Balance
from .balance import GradientNorm as GradientNorm
from .balance import Uncertainty as Uncertainty
from .observed import TeacherEntropy as TeacherEntropy
from .over_steps import Cosine as Cosine
from .over_steps import Linear as Linear
from .over_steps import Schedule as Schedule
from .over_steps import Steps as Steps
from .over_steps import WarmUp as WarmUp
from .scalars import constant as constant
from .scalars import is_variable as is_variable
from .values import bounds as bounds
from .values import check_within as check_within
from .values import is_scheduled as is_scheduled
from .values import value_at as value_at
