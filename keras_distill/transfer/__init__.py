"""What a student takes over from its teacher before a single step: weights and structure."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_distill.graph.cost.profiling import LayerProfile, ModelProfile, profile
    from keras_distill.transfer.copying.channelwise import copy_important, copy_random
    from keras_distill.transfer.copying.layerwise import copy_layers
    from keras_distill.transfer.copying.vocabulary import copy_vocabulary
    from keras_distill.transfer.depth.submodel import Block, blocks, submodel
    from keras_distill.transfer.recovery import Recovery
    from keras_distill.transfer.report import TransferReport, TransferRow
    from keras_distill.transfer.unfreezing import GradualUnfreezing
    from keras_distill.transfer.width.shrink import shrink

# Each is imported when it is asked for: a user who only trains waits for none of them.
_HOMES = {
    "Block": "keras_distill.transfer.depth.submodel",
    "GradualUnfreezing": "keras_distill.transfer.unfreezing",
    "LayerProfile": "keras_distill.graph.cost.profiling",
    "ModelProfile": "keras_distill.graph.cost.profiling",
    "Recovery": "keras_distill.transfer.recovery",
    "TransferReport": "keras_distill.transfer.report",
    "TransferRow": "keras_distill.transfer.report",
    "blocks": "keras_distill.transfer.depth.submodel",
    "copy_important": "keras_distill.transfer.copying.channelwise",
    "copy_layers": "keras_distill.transfer.copying.layerwise",
    "copy_random": "keras_distill.transfer.copying.channelwise",
    "copy_vocabulary": "keras_distill.transfer.copying.vocabulary",
    "profile": "keras_distill.graph.cost.profiling",
    "shrink": "keras_distill.transfer.width.shrink",
    "submodel": "keras_distill.transfer.depth.submodel",
}

__all__ = [
    "Block",
    "GradualUnfreezing",
    "LayerProfile",
    "ModelProfile",
    "Recovery",
    "TransferReport",
    "TransferRow",
    "blocks",
    "copy_important",
    "copy_layers",
    "copy_random",
    "copy_vocabulary",
    "profile",
    "shrink",
    "submodel",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
