"""How a fold is trained: recipe, augmentation, mixup, loss, loop and checkpoints."""
