"""A machine from a file, whatever its format; each format has a reader of its own."""

from __future__ import annotations

from pathlib import Path

from rakka_sim.errors import InputError
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.nccl_xml import read_nccl_xml
from rakka_sim.hardware.topo_read import read_topo
from rakka_sim.hardware.xml_elements import MOST_BYTES

CLUSTER_ENDINGS = (".yaml", ".yml")


def read_text(path: Path) -> str:
    """The text of a file of limited size; raises InputError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError("topology file", str(path), "an existing file") from None
    except OSError as error:
        raise InputError(f"topology file {path}", error.strerror or str(error), "a readable file") from None
    if len(raw) > MOST_BYTES:
        raise InputError(f"topology file {path}", f"more than {MOST_BYTES} bytes", f"at most {MOST_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"topology file {path}", str(error), "text in UTF-8") from None


def load_machine(path: str | Path, model: str = "") -> Machine:
    """The machine of an NCCL topology file or of a saved `nvidia-smi topo -m`; raises InputError.

    `model`: what its GPUs are where the file does not say.
    """
    path = Path(path)
    text = read_text(path)
    if text.lstrip().startswith("<"):
        return read_nccl_xml(text, str(path), path.stem).with_model(model)
    return read_topo(text, model, str(path), path.stem)
