"""PCI addresses as one text each, however they are spelt; nothing else may be here."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"(?:([0-9a-f]+):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-9a-f])")


def normal(bus_id: str) -> str:
    """``00000000:0F:00.0`` and ``f:0.0`` as ``0000:0f:00.0``; what is no PCI address as it is, in small letters."""
    text = bus_id.strip().lower()
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return text
    domain, bus, device, function = match.groups(default="0")
    return f"{int(domain, 16):04x}:{int(bus, 16):02x}:{int(device, 16):02x}.{function}"
