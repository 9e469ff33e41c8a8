"""What a student takes over from its teacher before a single step: weights and structure."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .channelwise import copy_important, copy_random
    from .depth import Block, blocks, submodel
    from .layerwise import copy_layers
    from .profiling import LayerProfile, ModelProfile, profile
    from .recovery import Recovery
    from .report import TransferReport, TransferRow
    from .unfreezing import GradualUnfreezing
    from .vocabulary import copy_vocabulary
    from .width import shrink

# Each is imported when it is asked for: a user who only trains waits for none of them.
_HOMES = {
    "Block": "depth",
    "GradualUnfreezing": "unfreezing",
    "LayerProfile": "profiling",
    "ModelProfile": "profiling",
    "Recovery": "recovery",
    "TransferReport": "report",
    "TransferRow": "report",
    "blocks": "depth",
    "copy_important": "channelwise",
    "copy_layers": "layerwise",
    "copy_random": "channelwise",
    "copy_vocabulary": "vocabulary",
    "profile": "profiling",
    "shrink": "width",
    "submodel": "depth",
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
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
