"""What a model is by its shapes, and the counts that follow from them; nothing is read from files here, no times."""

from __future__ import annotations

from dataclasses import dataclass

from rakka_sim.errors import InputError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "fp8": 1}


def kv_dtype_of(dtype: str, kv_dtype: str = "auto") -> str:
    """What `kv_dtype` stands for beside weights of `dtype`; "auto": the same, 16 bits beside fp8."""
    if kv_dtype != "auto":
        return kv_dtype
    return "bfloat16" if dtype == "fp8" else dtype


def dtype_bytes(dtype: str, where: str = "dtype") -> int:
    """Bytes of one element; raises InputError."""
    size = DTYPE_BYTES.get(dtype)
    if size is None:
        raise InputError(where, dtype, ", ".join(DTYPE_BYTES))
    return size


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only transformer, by the shapes that cost depends on.

    `sparse_layers` have `experts` feed-forward blocks of `expert_intermediate` each, of which a token uses
    `experts_per_token`; the other layers have one of `intermediate`. `linear_biases` and `norm_sizes` are elements per
    layer. `sliding_window` is in tokens, None for full attention; `full_layers` have none even so.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied_embeddings: bool
    max_position_embeddings: int
    sliding_window: int | None = None
    full_layers: tuple[int, ...] = ()
    qk_norm: bool = False
    attention_biases: int = 0
    mlp_bias: bool = False
    sparse_layers: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0

    # --- parameters -------------------------------------------------------------------------------------------------

    @property
    def attention_parameters(self) -> int:
        """Weights of the four attention projections, one layer."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def dense_mlp_parameters(self) -> int:
        """Weights of the feed-forward block of one layer without experts."""
        return 3 * self.hidden * self.intermediate

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return 3 * self.hidden * self.expert_intermediate

    @property
    def embedding_parameters(self) -> int:
        """Rows of the token embedding, which a step looks up but does not read through."""
        return self.vocab * self.hidden

    @property
    def head_parameters(self) -> int:
        """Weights of the language-model head, read for every sampled row whether tied or not."""
        return self.vocab * self.hidden

    @property
    def linear_parameters(self) -> int:
        """Weights of all layers' matrices; embedding and head not included."""
        dense_layers = self.layers - self.sparse_layers
        sparse = self.hidden * self.experts + self.experts * self.expert_parameters
        return (
            self.layers * self.attention_parameters
            + dense_layers * self.dense_mlp_parameters
            + self.sparse_layers * sparse
        )

    @property
    def small_parameters(self) -> int:
        """Norms and biases, which every quantisation leaves alone."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        dense_layers = self.layers - self.sparse_layers
        mlp_biases = (2 * self.intermediate + self.hidden) * dense_layers if self.mlp_bias else 0
        return self.layers * (norms + self.attention_biases) + mlp_biases + self.hidden

    @property
    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        head = 0 if self.tied_embeddings else self.head_parameters
        return self.linear_parameters + self.small_parameters + self.embedding_parameters + head

    @property
    def active_parameters(self) -> int:
        """Those that one token passes through, embedding and head included."""
        idle = self.experts - self.experts_per_token
        return self.parameters - self.sparse_layers * idle * self.expert_parameters

    # --- bytes and operations ---------------------------------------------------------------------------------------

    def weight_bytes(self, dtype: str = "bfloat16") -> int:
        """Bytes of all weights; in fp8 the layers' matrices take one byte and everything else stays at two."""
        rest = self.parameters - self.linear_parameters
        return self.linear_parameters * dtype_bytes(dtype) + rest * max(2, dtype_bytes(dtype))

    def kv_bytes_per_token(self, dtype: str = "bfloat16") -> int:
        """Bytes of keys and values that one token leaves behind in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * dtype_bytes(dtype, "kv dtype")

    # --- tensor parallelism -----------------------------------------------------------------------------------------

    def divides_by(self, tp: int) -> bool:
        """Whether `tp` GPUs can share the heads evenly; KV heads are copied where there are fewer of them."""
        if tp < 1 or self.heads % tp:
            return False
        return self.kv_heads % tp == 0 or tp % self.kv_heads == 0

    def check_tp(self, tp: int) -> None:
        """Raise InputError unless the heads divide by `tp`."""
        if not self.divides_by(tp):
            fitting = ", ".join(str(n) for n in range(1, self.heads + 1) if self.divides_by(n))
            raise InputError(f"tp of {self.name}", tp, f"{fitting} ({self.heads} heads, {self.kv_heads} KV heads)")
