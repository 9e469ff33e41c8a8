"""WHAT is learned from the teacher: one file a family, one small class a method."""

from keras_distill.objectives.base import Objective as Objective
from keras_distill.objectives.boundaries import ActivationBoundaries as ActivationBoundaries
from keras_distill.objectives.boundaries import Overhaul as Overhaul
from keras_distill.objectives.boundaries import batch_norm_margin as batch_norm_margin
from keras_distill.objectives.contrastive import (
    ContrastiveRepresentation as ContrastiveRepresentation,
)
from keras_distill.objectives.decoupled import DKD as DKD
from keras_distill.objectives.decoupled import NormalizedKD as NormalizedKD
from keras_distill.objectives.dense import AttentiveRegression as AttentiveRegression
from keras_distill.objectives.dense import BoundedRegression as BoundedRegression
from keras_distill.objectives.dense import ChannelWiseTargets as ChannelWiseTargets
from keras_distill.objectives.dense import MultiLabelTargets as MultiLabelTargets
from keras_distill.objectives.dense import RegressionTargets as RegressionTargets
from keras_distill.objectives.factors import FactorTransfer as FactorTransfer
from keras_distill.objectives.features import FeatureHint as FeatureHint
from keras_distill.objectives.features import VariationalInformation as VariationalInformation
from keras_distill.objectives.fusion import LayerFusion as LayerFusion
from keras_distill.objectives.generation import MaskedGeneration as MaskedGeneration
from keras_distill.objectives.labels import BalancedTargets as BalancedTargets
from keras_distill.objectives.labels import BootstrappedLabels as BootstrappedLabels
from keras_distill.objectives.labels import HardExamples as HardExamples
from keras_distill.objectives.labels import WeightedSoftTargets as WeightedSoftTargets
from keras_distill.objectives.logits import DIST as DIST
from keras_distill.objectives.logits import GeneralizedJSD as GeneralizedJSD
from keras_distill.objectives.logits import HardTargets as HardTargets
from keras_distill.objectives.logits import LogitsMSE as LogitsMSE
from keras_distill.objectives.logits import SoftTargets as SoftTargets
from keras_distill.objectives.maps import AffinityTransfer as AffinityTransfer
from keras_distill.objectives.maps import AttentionTransfer as AttentionTransfer
from keras_distill.objectives.maps import FlowOfSolution as FlowOfSolution
from keras_distill.objectives.maps import InterChannelCorrelation as InterChannelCorrelation
from keras_distill.objectives.maps import NeuronSelectivity as NeuronSelectivity
from keras_distill.objectives.memory import ContrastiveMemory as ContrastiveMemory
from keras_distill.objectives.patience import PatientStates as PatientStates
from keras_distill.objectives.ranking import RankingDistillation as RankingDistillation
from keras_distill.objectives.relations import CorrelationCongruence as CorrelationCongruence
from keras_distill.objectives.relations import ProbabilisticTransfer as ProbabilisticTransfer
from keras_distill.objectives.relations import RelationalKD as RelationalKD
from keras_distill.objectives.relations import SimilarityPreserving as SimilarityPreserving
from keras_distill.objectives.review import ReviewKD as ReviewKD
from keras_distill.objectives.sequences import AttentionMaps as AttentionMaps
from keras_distill.objectives.sequences import HiddenStates as HiddenStates
from keras_distill.objectives.sequences import ValueRelations as ValueRelations
from keras_distill.objectives.vocabularies import SharedVocabulary as SharedVocabulary
from keras_distill.objectives.vocabularies import VocabularyCoverage as VocabularyCoverage
from keras_distill.signals import Signals as Signals
