"""Options that a job cannot take, and why."""

CHAIN = "it is a chain of blocks and has no edges to choose from"
WHOLE = "the channels of a pretrained network enter together"
_OWN_BLOCKS = "its blocks are those of the pretrained network"
NOT_PRETRAINED = {
    "activation": _OWN_BLOCKS,
    "squeeze": _OWN_BLOCKS,
    "extra_depthwise": _OWN_BLOCKS,
    "operations": _OWN_BLOCKS,
    "targets": _OWN_BLOCKS,
    "sampler": WHOLE,
    "attention": WHOLE,
    "channel_fraction": WHOLE,
    "inherit": "its networks start from the supernet's weights without it",
    "prior": "it knows networks from scratch",
    "rank": "it compares with trainings from scratch",
}
"""Options that do not work with a pretrained network, and why."""
CELLS_ONLY = {
    "edges": CHAIN,
    "edge_weights": CHAIN,
    "zero_op": CHAIN,
    "layers": "the budgets decide on its depth",
    "channels": "the budgets decide on its widths",
    "search_layers": "its supernet is the space's largest network",
    "search_channels": "its supernet is the space's largest network",
    "auxiliary": "its networks have one classifier",
    "drop_path": "its networks have no parallel edges",
}
"""Options that do not work in the mobile space, and why."""
MOBILE_ONLY = {
    "activation": "cells have ReLU everywhere",
    "squeeze": "cells have no squeeze-excite",
    "extra_depthwise": "cells choose their convolutions",
    "operations": "cells choose from operations of their own",
    "inherit": "it takes slices of the mobile space's supernet",
    "pretrained": "there are none of cells",
    "prior": "it knows networks of the mobile space",
    "memory": "limit --flops or --params",
    "latency": "no profile has the blocks of cells; limit --flops or --params",
    "profile": "no profile has the blocks of cells",
}
"""Options that do not work in the cell space, and why."""
