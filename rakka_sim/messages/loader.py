"""What the weight loader receives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import value

if TYPE_CHECKING:
    from rakka_sim.hardware.routes import Weights
    from rakka_sim.runtime.api import Ref


@value
class LoadWeights:
    """Bring a replica's weights to its GPUs; answered by `WeightsLoaded` when they are there, or by an `InputError`.

    Whoever asks again gives up what it has asked for before.
    """

    weights: Weights
    reply_to: Ref[Any] | None = None


@value
class CancelLoad:
    """`reply_to` does not want the weights any more that it has asked for; what they took of the links is free."""

    reply_to: Ref[Any]
