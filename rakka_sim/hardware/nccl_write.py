"""A machine as an NCCL topology file, for `NCCL_TOPO_FILE`; `nccl_xml` reads the same machine from it.

What NCCL has no attribute for is written into some that it ignores: `model`, `uuid`, `nopeer`, `hostbridge`, `name`.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

from rakka_sim.errors import InputError
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.parts import Gpu, Pci, Port


def write_nccl_xml(machine: Machine) -> str:
    """The text of the file; raises InputError if a GPU has no PCI address, as those from a text matrix."""
    nameless = [pci.gpu.index for pci in machine.devices if pci.gpu is not None and not pci.bus_id]
    if nameless:
        raise InputError("PCI address of GPU", nameless[0], "a machine whose GPUs have addresses, for an NCCL file")
    lines = [f"<system{_attributes(version='1', name=machine.name)}>"]
    for cpu in machine.cpus:
        family, model = (str(cpu.family), str(cpu.model)) if cpu.vendor else ("", "")
        said = {"numaid": str(cpu.numa), "affinity": cpu.affinity, "arch": cpu.arch, "vendor": cpu.vendor}
        lines.append(f"  <cpu{_attributes(**said, familyid=family, modelid=model)}>")
        for top in cpu.devices:
            lines.extend("    " + line for line in _device(machine, top))
        lines.append("  </cpu>")
    return "\n".join([*lines, "</system>", ""])


def _device(machine: Machine, pci: Pci) -> Iterator[str]:
    if not pci.bus_id and pci.ports:
        yield from _nic(pci.ports)
        return
    vendor, device, subvendor, subdevice = pci.ids
    ids = {"vendor": vendor, "device": device, "subsystem_vendor": subvendor, "subsystem_device": subdevice}
    width = str(pci.width) if pci.width else ""
    bridge = str(pci.host_bridge) if pci.host_bridge else ""
    said = _attributes(
        busid=pci.bus_id, **{"class": pci.pci_class}, **ids, link_speed=pci.speed, link_width=width, hostbridge=bridge
    )
    inner = [*(_gpu(machine, pci.gpu) if pci.gpu else ()), *(_nic(pci.ports) if pci.ports else ())]
    inner += [line for child in pci.children for line in _device(machine, child)]
    if not inner:
        yield f"<pci{said}/>"
        return
    yield f"<pci{said}>"
    yield from ("  " + line for line in inner)
    yield "</pci>"


def _gpu(machine: Machine, gpu: Gpu) -> Iterator[str]:
    address = {pci.gpu.index: pci.bus_id for pci in machine.devices if pci.gpu is not None}
    barred = sorted(a + b - gpu.index for a, b in machine.no_peer if gpu.index in (a, b))
    index, sm = str(gpu.index), str(gpu.sm) if gpu.sm else ""
    nopeer = ",".join(map(str, barred))
    said = _attributes(dev=index, sm=sm, rank=index, gdr="1", model=gpu.model, uuid=gpu.uuid, nopeer=nopeer)
    ends = [(address[link.b], link.count, "0x030200") for link in machine.nvlinks if link.a == gpu.index]
    ends += [(address[link.a], link.count, "0x030200") for link in machine.nvlinks if link.b == gpu.index]
    ends += [(link.switch, link.count, "0x068000") for link in machine.switch_links if link.gpu == gpu.index]
    if not ends:
        yield f"<gpu{said}/>"
        return
    yield f"<gpu{said}>"
    for target, count, kind in ends:
        yield f"  <nvlink{_attributes(target=target, count=str(count), tclass=kind)}/>"
    yield "</gpu>"


def _nic(ports: tuple[Port, ...]) -> Iterator[str]:
    yield "<nic>"
    for number, port in enumerate(ports):
        speed = str(port.mbit_s) if port.mbit_s else ""
        yield f"  <net{_attributes(name=port.name, dev=str(number), speed=speed, port='1', gdr='1')}/>"
    yield "</nic>"


def _attributes(**values: str) -> str:
    return "".join(f" {name}={quoteattr(value)}" for name, value in values.items() if value)
