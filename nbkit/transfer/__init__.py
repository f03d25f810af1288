"""Fine-tune a model with an lr for each depth: `lr_groups` gives groups for any optimizer."""

from nbkit.transfer.groups import LRGroups, lr_groups

__all__ = ["LRGroups", "lr_groups"]
