"""For the tests of real tensors: one thread, because the models are tiny and test processes share the cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
