"""The engine's operations as Triton kernels: the same names, arguments and meaning as in `reference`.

Importing this needs Triton, which comes with PyTorch for CUDA on Linux. Launches neither synchronise nor look at a
tensor's contents, and their grids follow from shapes alone, so every one of them can stand in a CUDA graph.
"""

from rakka_sim.engines.torch.kernels.attention import paged_attention
from rakka_sim.engines.torch.kernels.pointwise import rms_norm, silu_mul
from rakka_sim.engines.torch.kernels.rope import rope_store
from rakka_sim.engines.torch.kernels.sampling import sample

__all__ = ["paged_attention", "rms_norm", "rope_store", "sample", "silu_mul"]
